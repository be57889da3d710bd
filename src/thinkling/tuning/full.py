"""Full fine-tuning: every parameter is trained."""

from __future__ import annotations

from typing import Any

from thinkling.core.config import Config as Settings
from thinkling.model.decoder import Decoder

IS_ADAPTER = False
MERGES = True


class Config(Settings):
    """Nothing to set."""


def apply(model: Decoder, config: Config) -> None:
    """Every parameter requires gradients."""
    model.requires_grad_(True)


def merge(model: Decoder) -> None:
    """It is the plain model already."""


def peft_config(config: Config, model: Decoder) -> dict[str, Any] | None:
    """None: PEFT's methods leave the base as it is."""
    return None
