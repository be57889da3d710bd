"""Curves for other programs: every line of metrics goes to the loggers that the settings name.

A logger is a file on the shelf `loggers`. It only ever repeats what metrics.jsonl says, so nothing is lost without it:
one that is not installed, or that fails on the way, is left out with one line, and the run goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import AfterValidator, BeforeValidator

from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run
from thinkling.core.shelf import closest, entry, names


class Logger(Protocol):
    """What `start` of a shelf entry gives."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def _as_list(value: Any) -> Any:
    """Other tools take one name, or "none"."""
    return ([] if value == "none" else [value]) if isinstance(value, str) else value


def _known(given: tuple[str, ...]) -> tuple[str, ...]:
    known = names("loggers")
    for name in given:
        if name not in known and not name.endswith(".py"):
            near = closest(name, known)
            raise ValueError(
                tr("there is no logger '{name}'; there are {known}", name=name, known=", ".join(known))
                + (f" ({near})" if near else "")
            )
    return given


LoggerNames = Annotated[tuple[str, ...], BeforeValidator(_as_list), AfterValidator(_known)]
"""Entries of the shelf `loggers`, or files of one's own; one name and "none" are understood too."""


class Reports:
    """The loggers of one training. Each is started with the first line, and closed at the end.

    Raises:
        ConfigError: A file that is named as a logger is not there.
    """

    def __init__(self, wanted: tuple[str, ...], run: Run, progress: Progress) -> None:
        self._run, self._progress = run, progress
        self._given_up: set[str] = set()
        self._modules = {name: entry("loggers", name) for name in wanted}  # a file of one's own is read at the door
        self._running: dict[str, tuple[Logger, tuple[type[BaseException], ...]]] | None = None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line, to all that still work."""
        if self._running is None:
            self._running = {}
            for name in self._modules:
                self._start(name, step)
        for name, (logger, faults) in list(self._running.items()):
            try:
                logger.log(step, metrics)
            except faults as error:
                self._give_up(name, error)

    def close(self) -> None:
        """Let each write what it still holds."""
        for name, (logger, faults) in list((self._running or {}).items()):
            try:
                logger.close()
            except faults as error:
                self._give_up(name, error)
        self._running = {}

    def begin_again(self) -> None:
        """The run has gone back: those that still work are closed, and started anew with the next line."""
        if self._running is not None:
            self.close()
            self._modules = {name: module for name, module in self._modules.items() if name not in self._given_up}
            self._running = None

    def _start(self, name: str, first_step: int) -> None:
        module = self._modules[name]
        try:
            faults = (OSError, *module.faults())
        except ImportError as error:
            self._give_up(name, error)
            return
        assert self._running is not None
        try:
            logger = module.start(
                folder=self._run.logger_dir(Path(name).stem),
                name=self._run.path.resolve().name,
                identity=_identity(self._run),
                settings=self._run.settings(),
                first_step=first_step,
            )
        except faults as error:
            self._give_up(name, error)
        else:
            self._running[name] = (logger, faults)

    def _give_up(self, name: str, error: BaseException) -> None:
        self._given_up.add(name)
        if self._running:
            self._running.pop(name, None)
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        text = "{name} failed and gets no more curves ({reason}); metrics.jsonl has them all"
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            text = "{name} is not installed, so no curves go there (pip install {name}); metrics.jsonl has them all"
        self._progress.note(tr(text, name=name, reason=reason))


def _identity(run: Run) -> str:
    """The same each time a run goes on, another one for a run that was deleted and made again. 21 characters."""
    first_start = run.environment_file.read_text(encoding="utf-8").split("\n\n")[0].strip()
    return hashlib.sha256(f"{run.path.resolve()}\n{first_start}".encode()).hexdigest()[:21]
