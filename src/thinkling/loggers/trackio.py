"""Trackio, where `trackio` is installed; its own variables hold: TRACKIO_DIR, TRACKIO_SPACE_ID."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from thinkling.core.service import FAULTS, ServiceRun


def faults() -> tuple[type[BaseException], ...]:
    """See core.service."""
    return FAULTS


def start(*, folder: Path, name: str, identity: str, settings: Mapping[str, Any], first_step: int) -> ServiceRun:
    """A run of that name, which goes on where there is one of the same name and `identity`."""
    import trackio

    run = trackio.init(
        project="thinkling", name=f"{name}-{identity[:6]}", config=dict(settings), resume="allow", auto_log_gpu=False
    )
    return ServiceRun(run)
