"""IA3: keys, values and the feed-forward's inner activations are each multiplied with a trained vector.

Liu et al. 2022 (arXiv:2205.05638), section 3.3: l_k on the keys, l_v on the values, l_ff on what enters the last matrix
of the feed-forward, all ones at the start. The vectors fold into the matrices: rows of k_proj and v_proj, columns of
down_proj. They are kept and applied in fp32, because near 1 a bf16 number moves in steps of 0.4 to 0.8 %.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinkling.core.config import Config as Settings
from thinkling.model.adapted import AdaptedLinear, merge_linears
from thinkling.model.decoder import Decoder

IS_ADAPTER = True
MERGES = True
LEARNING_RATE = 3e-3
"""The paper's, section 3.3."""
OUTPUTS = ("k_proj", "v_proj")
INPUTS = ("down_proj",)


class Config(Settings):
    """Nothing to set."""


class ScaledLinear(AdaptedLinear):
    """A linear module whose outputs, or whose inputs, are multiplied with `ia3_l`: (out, 1) or (1, in), as in PEFT."""

    def __init__(self, linear: nn.Linear, *, scales_input: bool) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scales_input = scales_input
        shape = (1, linear.in_features) if scales_input else (linear.out_features, 1)
        self.ia3_l = nn.Parameter(torch.ones(shape, dtype=torch.float32, device=linear.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """(N, in) -> (N, out)."""
        if self.scales_input:
            return F.linear(_scaled(x, self.ia3_l), self.weight, self.bias)
        return _scaled(F.linear(x, self.weight, self.bias), self.ia3_l)

    def merged(self) -> tuple[Tensor, Tensor | None]:
        weight = (self.weight * self.ia3_l).to(self.weight.dtype)
        if self.bias is None:
            return weight, None
        return weight, self.bias.clone() if self.scales_input else _scaled(self.bias, self.ia3_l)


def _scaled(x: Tensor, vector: Tensor) -> Tensor:
    """(…, d) times a vector of d numbers, in fp32, rounded once."""
    return (x * vector.flatten()).to(x.dtype)


def apply(model: Decoder, config: Config) -> None:
    """One vector each for the keys, the values and the inner activations of every layer; nothing else is trained."""
    model.requires_grad_(False)
    for layer in model.model.layers:
        for parent, names in ((layer.self_attn, OUTPUTS), (layer.mlp, INPUTS)):
            for name in names:
                setattr(parent, name, ScaledLinear(getattr(parent, name), scales_input=name in INPUTS))


def merge(model: Decoder) -> None:
    """Fold the vectors into their matrices."""
    merge_linears(model)


def peft_config(config: Config, model: Decoder) -> dict[str, Any] | None:
    """adapter_config.json of PEFT's IA3."""
    return {
        "peft_type": "IA3",
        "target_modules": [*OUTPUTS, *INPUTS],
        "feedforward_modules": list(INPUTS),
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_ia3_weights": True,
    }
