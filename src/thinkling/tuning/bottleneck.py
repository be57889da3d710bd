"""Bottleneck adapters: behind each attention and each feed-forward, a narrow layer whose result is added.

Houlsby et al. 2019 (arXiv:1902.00751), section 2.1 and figure 2: h + up(f(down(h))) on what a sublayer gives, before it
is added to the stream. Ours begins with `up` at zero, exactly as the base, where the paper begins near it; norms stay
frozen. Nonlinear, so it cannot be merged: decoding calls it in every layer.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from thinkling.core.config import Config as Settings
from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.core.rng import seed_from
from thinkling.model.adapted import drawn_uniform
from thinkling.model.decoder import Decoder

IS_ADAPTER = True
MERGES = False
LEARNING_RATE = 1e-3
"""Between the paper's 3e-4 and 3e-3."""


class Config(Settings):
    """How narrow."""

    bottleneck_width: int = Field(64, ge=1)
    """Numbers between `down` and `up`."""
    seed: int = 0
    """Of the first values of `down`."""


class Bottleneck(nn.Module):
    """h (N, D) -> h + up(gelu(down(h))). Parameters fp32, computed in the dtype of h."""

    def __init__(self, width: int, narrow: int, generator: torch.Generator, device: torch.device) -> None:
        super().__init__()
        # As nn.Linear begins: variance 1 / (3 D), so that the inner activations do not depend on the width.
        self.down = nn.Parameter(drawn_uniform((narrow, width), 1 / math.sqrt(width), generator, device))
        self.down_bias = nn.Parameter(torch.zeros(narrow, device=device))
        self.up = nn.Parameter(torch.zeros(width, narrow, device=device))
        self.up_bias = nn.Parameter(torch.zeros(width, device=device))

    def forward(self, h: Tensor) -> Tensor:
        inner = F.gelu(F.linear(h, self.down.to(h.dtype), self.down_bias.to(h.dtype)))  # (N, narrow)
        return h + F.linear(inner, self.up.to(h.dtype), self.up_bias.to(h.dtype))


class BottleneckLinear(nn.Linear):
    """A linear module with a bottleneck behind it: x (N, in) -> (N, out)."""

    def __init__(self, linear: nn.Linear, narrow: int, generator: torch.Generator) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.adapter = Bottleneck(linear.out_features, narrow, generator, linear.weight.device)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.adapter(super().forward(x))
        return out


def apply(model: Decoder, config: Config) -> None:
    """A bottleneck behind o_proj and down_proj of every layer; nothing else is trained.

    Raises:
        ConfigError: It is no narrower than the model.
    """
    width = model.config.width
    if config.bottleneck_width >= width:
        raise ConfigError(
            tr(
                "a bottleneck of {n} is not narrower than the model, which is {width} wide",
                n=config.bottleneck_width,
                width=width,
            ),
            where=f"tuning.bottleneck_width = {config.bottleneck_width}",
            fix=tr("take {n} or less", n=max(1, width // 4)),
        )
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed_from("bottleneck", config.seed))
    for layer in model.model.layers:
        for parent, name in ((layer.self_attn, "o_proj"), (layer.mlp, "down_proj")):
            linear = getattr(parent, name)
            setattr(parent, name, BottleneckLinear(linear, config.bottleneck_width, generator))


def peft_config(config: Config, model: Decoder) -> dict[str, Any] | None:
    """None: PEFT has no bottleneck adapters of this form."""
    return None
