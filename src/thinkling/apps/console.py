"""What work looks like in a terminal: a live bar for a person, a plain line every ten seconds for a log.

Phases nest (an evaluation inside a training run), so they are a stack. What a line says is computed by pure functions
at the end of this file; the class only keeps time and prints.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.text import Text

from thinkling.core.device import process_memory_gib
from thinkling.core.language import tr

LONG_S = 2.0
"""A phase that took longer leaves a line behind."""
LINE_EVERY_S = 10.0
"""Between two lines of one phase where no bar can be shown."""
FACTS: dict[str, Callable[[float], str]] = {
    "tokens/per_s": lambda x: tr("{x} tokens/s", x=f"{x:,.0f}"),
    "bytes/per_s": lambda x: tr("{x} MB/s", x=f"{x / 1e6:,.1f}"),
    "mfu": lambda x: f"MFU {x:.0%}",
    "memory/gib": lambda x: f"{x:.1f} GiB",
    "loss/train": lambda x: tr("loss {x}", x=f"{x:.3f}"),
    "reward/mean": lambda x: tr("reward {x}", x=f"{x:.3f}"),
    "accuracy/validation": lambda x: tr("{x} right", x=f"{x:.0%}"),
    "loss/validation": lambda x: tr("validation loss {x}", x=f"{x:.3f}"),
}
"""Facts shown beside a bar, by their metric's name, the last left off where a line is narrow; others: metrics.jsonl."""
SURENESS = ("accuracy/validation_low", "accuracy/validation_high", "accuracy/validation_n")
"""Interval and n that stand behind accuracy/validation where all three are known."""
BAR_CELLS = 10


@dataclass
class _Phase:
    """Work under way."""

    name: str
    total: float
    unit: str
    started: float
    printed: float
    """When its last line was printed."""
    done: float = 0.0
    facts: dict[str, float] = field(default_factory=dict)
    """By metric, the newest value of each."""
    told_at: dict[str, float] = field(default_factory=dict)
    """By metric, what was done when its value came: not every advance brings all of them."""
    first: tuple[float, float] | None = None
    """(time, done) of the first advance: a resumed phase does not begin at 0."""
    bar: TaskID | None = None

    def tell(self, facts: Mapping[str, float]) -> None:
        """Take facts in, as of now."""
        by_metric = {_metric(name): value for name, value in facts.items()}
        self.facts |= by_metric
        self.told_at |= dict.fromkeys(by_metric, self.done)

    def older(self) -> dict[str, str]:
        """The facts that are not of this moment, each with the moment it is of: '40 steps'."""
        return {name: _amount(done, self.unit) for name, done in self.told_at.items() if done != self.done}


class _Lasting(Console):
    """A console whose reader may leave (`| head`, a closed terminal): from then on it says nothing, and the work goes
    on."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, trace)
        except OSError as fault:
            if fault.errno != errno.EIO:  # what a terminal that is gone says
                raise
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Send what is left to nowhere; rich itself would end the process here."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


class Terminal:
    """A `core.progress.Progress` for people. A context manager: leaving it gives the terminal back, whatever happened.

    Args:
        file: Where to print; standard output when None.
        live: Whether bars may move; when None, whether `file` is a terminal.
        clock: Seconds, for tests.
    """

    def __init__(
        self, file: TextIO | None = None, *, live: bool | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = _Lasting(file=file, highlight=False, markup=False, soft_wrap=True, force_terminal=live)
        self.live = self.console.is_terminal
        self._clock = clock
        self._phases: list[_Phase] = []
        self._bars: Bars | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._phases.clear()
        self._stop_bars()

    # what happens -----------------------------------------------------------------------------------------------

    def start(self, phase: str, total: float, unit: str) -> None:
        """A phase begins, inside the one under way if there is one."""
        now = self._clock()
        begun = _Phase(tr(phase), total, tr(unit), now, now)
        if self.live:
            begun.bar = self._running_bars().add_task(begun.name, total=total or None, text="")
        self._phases.append(begun)

    def advance(self, done: float, **facts: float) -> None:
        """Move the bar, or print a line where ten seconds have gone by since the last."""
        assert self._phases, "advance before start"
        phase, now = self._phases[-1], self._clock()
        phase.done = done
        phase.tell(facts)
        phase.first = phase.first or (now, done)
        if phase.bar is not None:
            self._running_bars().update(phase.bar, completed=done, text=self._line(phase, now, self._room(phase)))
        elif now - phase.printed >= LINE_EVERY_S:
            phase.printed = now
            self._print(f"{phase.name}  {self._line(phase, now)}")

    def finish(self, **facts: float) -> None:
        """End the innermost phase; one line stays where it took more than two seconds."""
        assert self._phases, "finish before start"
        phase, now = self._phases.pop(), self._clock()
        phase.tell(facts)
        if phase.bar is not None:
            self._running_bars().remove_task(phase.bar)
        if not self._phases:
            self._stop_bars()
        if now - phase.started > LONG_S:
            took = tr("{amount} in {time}", amount=_amount(phase.done, phase.unit), time=duration(now - phase.started))
            self._print("  ".join([phase.name, took, *shown_facts(phase.facts, phase.older())]))

    def note(self, text: str) -> None:
        """One line."""
        self._print(tr(text))

    def table(self, title: str, rows: Mapping[str, str]) -> None:
        """A title and two columns; the rows come in the user's language, so that names of settings stay as they are."""
        self.console.print(Text(tr(title), style="bold"))
        for line in two_columns(rows):
            self._print(line)

    # printing ---------------------------------------------------------------------------------------------------

    def _print(self, line: str) -> None:
        self.console.print(line)

    def _room(self, phase: _Phase) -> int:
        """Cells beside the name and the bar; a longer text would be cut in the middle of a number."""
        return self.console.width - cell_len(phase.name) - BAR_CELLS - 3

    def _line(self, phase: _Phase, now: float, room: int = 1000) -> str:
        facts = dict(phase.facts)
        facts.setdefault("memory/gib", process_memory_gib())
        left = seconds_left(phase.done, phase.total, now, phase.started, phase.first)
        amount = _amount(phase.done, phase.unit, phase.total)
        rest = [tr("{time} left", time=duration(left))] if left is not None else []
        return fitted([amount, *rest, *shown_facts(facts, phase.older())], room)

    def _running_bars(self) -> Bars:
        if self._bars is None:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(BAR_CELLS),
                TextColumn("{task.fields[text]}", markup=False),
            )
            # Four redraws a second: more would take time from the cores that train.
            self._bars = Bars(*columns, console=self.console, transient=True, refresh_per_second=4)
            self._bars.start()
        return self._bars

    def _stop_bars(self) -> None:
        if self._bars is not None:
            self._bars.stop()
            self._bars = None


# what a line says -------------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """0:42, 6:12, 1:02:03.

    Example:
        >>> duration(3723)
        '1:02:03'
    """
    whole = max(0, round(seconds))
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def seconds_left(
    done: float, total: float, now: float, started: float, first: tuple[float, float] | None
) -> float | None:
    """Time left at the speed since the first advance, or since the start where there was but one; None when unknown."""
    since, before = first if first and first[1] < done else (started, 0.0)
    if total <= 0 or done <= before or now <= since:
        return None
    return (now - since) / (done - before) * max(0.0, total - done)


def fitted(parts: Sequence[str], room: int) -> str:
    """The parts, two spaces between them, as many as fit into `room` cells; the first always stays."""
    kept = list(parts)
    while len(kept) > 1 and cell_len("  ".join(kept)) > room:
        kept.pop()
    return "  ".join(kept)


def shown_facts(facts: Mapping[str, float], older: Mapping[str, str] | None = None) -> list[str]:
    """The facts worth a place beside a bar, in a fixed order; `tokens_per_s` and `tokens/per_s` are the same.

    Args:
        older: The metrics among them that are not of this moment, each with the moment it is of.

    Example:
        >>> shown_facts({"loss/train": 0.21, "accuracy/validation": 0.5}, older={"accuracy/validation": "40 steps"})
        ['loss 0.210', '50% right at 40 steps']
    """
    by_metric = {_metric(name): value for name, value in facts.items()}
    said = {name: say(by_metric[name]) + _sureness(name, by_metric) for name, say in FACTS.items() if name in by_metric}
    then = older or {}
    return [tr("{fact} at {amount}", fact=fact, amount=then[n]) if n in then else fact for n, fact in said.items()]


def _sureness(name: str, facts: Mapping[str, float]) -> str:
    """' [25–75%, n 12]' behind a share whose interval and n are known."""
    if name != "accuracy/validation" or any(known not in facts for known in SURENESS):
        return ""
    low, high, n = (facts[known] for known in SURENESS)
    return f" [{100 * low:.0f}–{high:.0%}, n {n:.0f}]"


def _metric(name: str) -> str:
    return name if "/" in name else name.replace("_", "/", 1)


def _amount(done: float, unit: str, total: float = 0.0) -> str:
    if unit == "bytes":
        return f"{done / 1e6:,.1f}/{total / 1e6:,.1f} MB" if total else f"{done / 1e6:,.1f} MB"
    return f"{done:,.0f}/{total:,.0f} {unit}" if total else f"{done:,.0f} {unit}"


def two_columns(rows: Mapping[str, str]) -> list[str]:
    """Lines of `key  value`, the values below each other; Chinese characters count as two cells."""
    width = max(map(cell_len, rows), default=0)
    return [f"  {key}{' ' * (width - cell_len(key))}  {value}".rstrip() for key, value in rows.items()]
