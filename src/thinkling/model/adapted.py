"""What tuning methods share in the model: the record of what was done to it, and linear modules that can be merged.

A tuned decoder keeps the Hugging Face names of its own parameters; what a method adds lies beside them under names of
its own. Whoever needs plain weights (decoding, merging) asks `plain_weights`, and never writes to the owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Tuned:
    """What was applied to a model, and to which: enough to do it again."""

    method: str
    """A name from the shelf `tuning`."""
    settings: Mapping[str, Any]
    """Of its Config, every default written out."""
    base: Mapping[str, Any]
    """Of the model before: its `name` (as it can be resolved again), `hash` of the weights, `folder`."""


class AdaptedLinear(nn.Linear):
    """A linear module with something on top that can be folded into its weights."""

    def merged(self) -> tuple[Tensor, Tensor | None]:
        """(weight (out, in), bias (out,) or None) of the plain linear that computes the same; new tensors."""
        raise NotImplementedError


def drawn_uniform(shape: tuple[int, int], bound: float, generator: torch.Generator, device: torch.device) -> Tensor:
    """fp32 numbers between -bound and bound, the same on every device; on `meta`, where a run is planned, none."""
    if device.type == "meta":
        return torch.empty(shape, device=device)
    return torch.empty(shape).uniform_(-bound, bound, generator=generator).to(device)


def plain_weights(linear: nn.Linear) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of the plain linear that computes what this one does; the module is left as it is."""
    if isinstance(linear, AdaptedLinear):
        return linear.merged()
    return linear.weight, linear.bias


@torch.no_grad()
def merge_linears(model: nn.Module) -> None:
    """Put a plain `nn.Linear` in the place of every AdaptedLinear. All parameters require gradients afterwards."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, AdaptedLinear):
                setattr(parent, name, _plain(child))
    model.requires_grad_(True)


def _plain(linear: AdaptedLinear) -> nn.Linear:
    weight, bias = linear.merged()
    with torch.device("meta"):  # shapes without memory: the tensors come from the merge
        out = nn.Linear(linear.in_features, linear.out_features, bias=bias is not None)
    out.weight = nn.Parameter(weight)
    out.register_parameter("bias", None if bias is None else nn.Parameter(bias))
    return out


def block_linears(model: nn.Module) -> dict[str, nn.Linear]:
    """The matrices of the blocks by full name: what an adapter can cover. Embedding and head are not among them, for
    they are read without being called."""
    found = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return {name: module for name, module in found.items() if name.startswith("model.layers.")}
