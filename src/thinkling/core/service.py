"""A run at somebody else's service (wandb, swanlab, trackio), as the loggers of that name hold it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FAULTS: tuple[type[BaseException], ...] = (Exception, SystemExit)
"""Whatever it raises: somebody else's program, on somebody else's network, shall not end a run, and not by leaving."""


class ServiceRun:
    """What `init` of such a package gave: it has log(dict, step=) and finish()."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of one step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()
