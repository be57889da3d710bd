"""A wish to stop, from the keyboard or the system, that waits until a step is done and saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from thinkling.core.errors import Interrupted, Terminated, TerminationRequest


class StopRequested:
    """Turns Ctrl-C, SIGTERM or a terminal that is closed into a flag that is looked at between steps.

    The second Ctrl-C or SIGTERM stops at once. SIGHUP never does: a terminal that closes sends it twice, once by its
    shell and once by the system; under `nohup`, which has it ignored, it is not heeded at all.
    """

    def __init__(self) -> None:
        self.requested = False
        self.error: type[Interrupted] = Interrupted
        """What to raise between two steps, once it is requested."""
        self.at_once: type[BaseException] = KeyboardInterrupt
        """What to raise where there is nothing left to save."""
        self._insisted = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequested:
        in_main = threading.current_thread() is threading.main_thread()
        numbers = [signal.SIGINT, signal.SIGTERM]
        numbers += [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
        self._before = {number: signal.signal(number, self._ask) for number in numbers} if in_main else {}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number != signal.SIGINT:
            self.error, self.at_once = Terminated, TerminationRequest
        if number == signal.SIGHUP:
            return
        if self._insisted:
            raise self.at_once
        self._insisted = True
