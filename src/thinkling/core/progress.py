"""How work tells how far it is. Engines report to a `Progress`; what a person sees is decided in `apps`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Receives what happens. Every method returns at once."""

    def start(self, phase: str, total: float, unit: str) -> None:
        """A phase begins: `total` units of work are ahead."""

    def advance(self, done: float, **facts: float) -> None:
        """`done` of the total in this phase so far; facts such as tokens_per_s are shown beside it."""

    def finish(self, **facts: float) -> None:
        """The phase is over."""

    def note(self, text: str) -> None:
        """One line that the user should see."""

    def table(self, title: str, rows: Mapping[str, str]) -> None:
        """A few named facts, such as the effective settings."""


class Silent:
    """Shows nothing; keeps the notes, so that tests can read them."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def start(self, phase: str, total: float, unit: str) -> None: ...

    def advance(self, done: float, **facts: float) -> None: ...

    def finish(self, **facts: float) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def table(self, title: str, rows: Mapping[str, str]) -> None: ...
