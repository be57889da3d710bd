"""Trackio, where `trackio` is installed; its own variables hold: TRACKIO_DIR, TRACKIO_SPACE_ID."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def faults() -> tuple[type[Exception], ...]:
    """Whatever it raises: somebody else's program, on somebody else's network, shall not end a run.

    Raises:
        ImportError: It is not installed.
    """
    import trackio  # noqa: F401

    return (Exception,)


class TrackioRun:
    """One run there."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of one step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def start(*, folder: Path, name: str, identity: str, settings: Mapping[str, Any], first_step: int) -> TrackioRun:
    """A run of that name, which goes on where there is one of the same name and `identity`."""
    import trackio

    run = trackio.init(
        project="thinkling", name=f"{name}-{identity[:6]}", config=dict(settings), resume="allow", auto_log_gpu=False
    )
    return TrackioRun(run)
