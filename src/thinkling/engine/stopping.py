"""A wish to stop, from the keyboard or the system, that waits until a step is done and saved."""

from __future__ import annotations

import signal
import threading
from types import FrameType

from thinkling.core.errors import Interrupted, Terminated, TerminationRequest


class StopRequested:
    """Turns the first Ctrl-C or SIGTERM into a flag that is looked at between steps; the second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self.error: type[Interrupted] = Interrupted
        """What to raise between two steps, once it is requested."""
        self.at_once: type[BaseException] = KeyboardInterrupt
        """What to raise where there is nothing left to save."""

    def __enter__(self) -> StopRequested:
        in_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.error, self.at_once = Terminated, TerminationRequest
        if self.requested:
            raise self.at_once
        self.requested = True
