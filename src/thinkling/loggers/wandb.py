"""Weights & Biases, where `wandb` is installed. Its own variables hold: WANDB_MODE=offline, WANDB_PROJECT."""

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
    import wandb  # noqa: F401

    return (Exception,)


class WandbRun:
    """One run there."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """The numbers of one step."""
        self._run.log(dict(metrics), step=step)

    def close(self) -> None:
        """Send what is left."""
        self._run.finish()


def start(*, folder: Path, name: str, identity: str, settings: Mapping[str, Any], first_step: int) -> WandbRun:
    """A run of that name, or the same one again where `identity` is known there; it drops steps that it has."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    project = os.environ.get("WANDB_PROJECT", "thinkling")
    place = str(folder)
    return WandbRun(
        wandb.init(project=project, name=name, id=identity, resume="allow", dir=place, config=dict(settings))
    )
