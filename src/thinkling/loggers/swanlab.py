"""SwanLab, where `swanlab` is installed. Its own variables hold: SWANLAB_MODE=local or offline, SWANLAB_PROJ_NAME."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def faults() -> tuple[type[Exception], ...]:
    """Whatever it raises: somebody else's program, on somebody else's network, shall not end a run.

    Raises:
        ImportError: It is not installed.
    """
    import swanlab  # noqa: F401

    return (Exception,)


class SwanlabRun:
    """One experiment there."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of one step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def start(*, folder: Path, name: str, identity: str, settings: Mapping[str, Any], first_step: int) -> SwanlabRun:
    """An experiment of that name, or the same one again where `identity` is known there."""
    import swanlab

    folder.mkdir(parents=True, exist_ok=True)
    project = os.environ.get("SWANLAB_PROJ_NAME", "thinkling")
    run = swanlab.init(
        project=project,
        experiment_name=name,
        logdir=str(folder),
        config=dict(settings),
        id=identity,
        resume="allow",
    )
    return SwanlabRun(run)
