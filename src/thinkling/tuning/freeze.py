"""Frozen embedding and lower layers: the rest is trained, and nothing below the lowest trained layer runs backward.

What saves time is the depth at which the backward pass ends, so the embedding has to be frozen with the layers: it
lies below them all. Where embedding and head are one tensor, the head is frozen with it.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from thinkling.core.config import Config as Settings
from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.model.decoder import Decoder

IS_ADAPTER = False
MERGES = True


class Config(Settings):
    """How much is frozen, from below."""

    embedding: bool = True
    """Freeze the embedding, and with it a head that is the same tensor."""
    layers: int = Field(0, ge=0)
    """How many of the lowest layers are frozen."""


def apply(model: Decoder, config: Config) -> None:
    """All but the embedding and the lowest layers require gradients.

    Raises:
        ConfigError: Nothing would be frozen, or nothing worth training would be left.
    """
    _refuse_all_or_nothing(model, config)
    model.requires_grad_(True)
    model.model.embed_tokens.requires_grad_(not config.embedding)
    for layer in list(model.model.layers)[: config.layers]:
        layer.requires_grad_(False)


def _refuse_all_or_nothing(model: Decoder, config: Config) -> None:
    n_layers, tied = model.config.n_layers, model.config.tied_embeddings
    where = f"tuning.embedding = {config.embedding}, tuning.layers = {config.layers}"
    if not config.embedding and not config.layers:
        raise ConfigError(
            tr("freeze with nothing frozen is full fine-tuning"),
            where=where,
            fix=tr("freeze the embedding or some layers, or take tuning.method=full"),
        )
    if config.layers > n_layers:
        raise ConfigError(
            tr("{asked} layers are to be frozen, and the model has {n}", asked=config.layers, n=n_layers),
            where=where,
            fix=tr("freeze fewer than {n} layers", n=n_layers),
        )
    if config.layers == n_layers and tied and config.embedding:
        raise ConfigError(
            tr("everything is frozen: embedding and head are one tensor, and no layer is left"),
            where=where,
            fix=tr("freeze fewer than {n} layers", n=n_layers),
        )


def merge(model: Decoder) -> None:
    """It is the plain model already."""


def peft_config(config: Config, model: Decoder) -> dict[str, Any] | None:
    """None: PEFT's methods leave the base as it is."""
    return None
