"""SwanLab, where `swanlab` is installed. Its own variables hold: SWANLAB_MODE=local or offline, SWANLAB_PROJ_NAME."""

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
    return ServiceRun(run)
