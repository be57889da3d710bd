"""BitFit: only biases are trained, those of queries, keys and values.

Ben Zaken et al. 2022 (arXiv:2106.10199), section 3: everything but the bias terms is frozen. The decoders here have
biases on queries, keys and values (Qwen2) or none at all (Llama, SmolLM2, Mistral). Where there are none, zero biases
are added to these three, which changes nothing until they are trained; the model is then, name for name, a decoder of
the family Qwen2, is saved as one, and opens everywhere as one. Qwen3 has no such sibling and is refused. The paper's
models have biases in the feed-forward matrices too: ours train fewer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from thinkling.core.config import Config as Settings
from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.model.decoder import Decoder

IS_ADAPTER = True
MERGES = True
LEARNING_RATE = 1e-3
"""Ten times that of full fine-tuning: so few numbers have to move further."""


class Config(Settings):
    """Nothing to set."""


def apply(model: Decoder, config: Config) -> None:
    """The biases of queries, keys and values require gradients; where the model has none, they are added as zeros.

    Raises:
        ConfigError: No family has this model's layers and biases too.
    """
    model.requires_grad_(False)
    if not model.config.attention_bias:
        _refuse_without_sibling(model)
        model.config = replace(model.config, family="qwen2", attention_bias=True)
    for layer in model.model.layers:
        for name in ("q_proj", "k_proj", "v_proj"):
            linear = getattr(layer.self_attn, name)
            if linear.bias is None:
                linear.bias = nn.Parameter(torch.zeros_like(linear.weight[:, 0]))
            linear.bias.requires_grad_(True)


def _refuse_without_sibling(model: Decoder) -> None:
    if model.config.qk_norm:
        raise ConfigError(
            tr("{family} has no biases to train, and no family has its layers with biases", family=model.config.family),
            where="tuning.method = bitfit",
            fix=tr("take tuning.method=ia3, which trains about as few parameters, or lora"),
        )


def merge(model: Decoder) -> None:
    """The biases are the model's own: it is a plain decoder already."""
    model.requires_grad_(True)


def peft_config(config: Config, model: Decoder) -> dict[str, Any] | None:
    """None: PEFT has no BitFit."""
    return None
