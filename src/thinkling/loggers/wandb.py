"""Weights & Biases, where `wandb` is installed. Its own variables hold: WANDB_MODE=offline, WANDB_PROJECT."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinkling.core.service import FAULTS, ServiceRun


def faults() -> tuple[type[BaseException], ...]:
    """See core.service."""
    return FAULTS


def start(*, folder: Path, name: str, identity: str, settings: Mapping[str, Any], first_step: int) -> ServiceRun:
    """A run of that name, or the same one again where `identity` is known there; it drops steps that it has."""
    import wandb

    folder.mkdir(parents=True, exist_ok=True)
    project = os.environ.get("WANDB_PROJECT", "thinkling")
    place = str(folder)
    return ServiceRun(
        wandb.init(project=project, name=name, id=identity, resume="allow", dir=place, config=dict(settings))
    )
