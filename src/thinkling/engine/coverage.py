"""What a tuning method will train of a model, known before a weight is loaded: coverage, share, scale and cost.

The method is applied to a model without memory, and the account is read off it: which parameters require gradients,
and how deep the backward pass has to go to reach the lowest of them. No method has to declare any of this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from thinkling.core.language import tr
from thinkling.engine.tuning import config_of, method_of, tune
from thinkling.model.config import ModelConfig
from thinkling.model.decoder import Decoder

LAYER = re.compile(r"^model\.layers\.(\d+)\.(.+)$")
ABOVE_THE_LAYERS = ("model.norm.", "lm_head.")


@dataclass(frozen=True)
class Work:
    """FLOPs of one training step, by what they grow with."""

    per_token: float
    """Block matrices and adapters: forward, gradient of the input where it is formed, gradient of what is trained."""
    per_prediction: float
    """The head."""
    per_pair: float
    """Attention, for each pair of tokens that see each other."""


def full_work(config: ModelConfig) -> Work:
    """Of full fine-tuning: three products a matrix, forward and two backward; 12 H E a pair and layer."""
    return Work(
        per_token=6.0 * config.matrix_parameters,
        per_prediction=6.0 * config.vocab_size * config.width,
        per_pair=12.0 * config.n_layers * config.n_heads * config.head_width,
    )


@dataclass(frozen=True)
class Covered:
    """One kind of module with trained parameters, such as q_proj, over all layers."""

    kind: str
    count: int
    """Layers in which it is trained; 1 for what stands once."""
    of: int
    trained: int
    """Parameters."""


@dataclass(frozen=True)
class Coverage:
    """What will be trained."""

    method: str
    parameters: int
    """Of the model, the method's own included."""
    added: int
    """The method's own."""
    trained: int
    backward_layers: int
    """Layers through which gradients flow, from the top; those below run forward only."""
    head: bool
    """Whether the head's weights are trained."""
    covered: tuple[Covered, ...]
    facts: Mapping[str, float]
    """Of the method, such as rank and scale."""
    work: Work

    @property
    def share(self) -> float:
        return self.trained / self.parameters

    def as_dict(self) -> dict[str, Any]:
        """For plan.json."""
        return {
            "method": self.method,
            "added_parameters": self.added,
            "share_trained": self.share,
            "backward_layers": self.backward_layers,
            "covered": [{"kind": c.kind, "count": c.count, "of": c.of, "parameters": c.trained} for c in self.covered],
            "facts": dict(self.facts),
        }


def coverage(config: ModelConfig, settings: Mapping[str, Any]) -> Coverage:
    """The account of a checked `tuning` setting on a model of these sizes.

    Raises:
        ConfigError: The method does not fit the model: see its `apply`.
    """
    with torch.device("meta"):
        model = Decoder(config)
    plain = {name for name, _ in model.named_parameters()}
    tune(model, settings, {})
    own = dict(model.named_parameters())
    trained = {name: parameter.numel() for name, parameter in own.items() if parameter.requires_grad}
    added = sum(parameter.numel() for name, parameter in own.items() if name not in plain)
    depth = _backward_layers(config, list(trained))
    entry = method_of(settings)
    return Coverage(
        method=str(settings["method"]),
        parameters=config.n_parameters + added,
        added=added,
        trained=sum(trained.values()),
        backward_layers=depth,
        head=model.lm_head.weight.requires_grad,
        covered=_kinds(model, trained),
        facts=entry.facts(config_of(settings)) if hasattr(entry, "facts") else {},
        work=_work(config, model, plain, depth),
    )


def _backward_layers(config: ModelConfig, trained: list[str]) -> int:
    """Gradients flow down to the lowest trained parameter; what stands outside the layers and not above lies below."""
    if any(not LAYER.match(name) and not name.startswith(ABOVE_THE_LAYERS) for name in trained):
        return config.n_layers
    layers = [int(found[1]) for name in trained if (found := LAYER.match(name))]
    return config.n_layers - min(layers, default=config.n_layers)


def _kinds(model: nn.Module, trained: Mapping[str, int]) -> tuple[Covered, ...]:
    """Trained parameters by the module that holds them, layers folded together, in the model's order."""
    everywhere: dict[str, set[str]] = {}
    sizes: dict[str, int] = {}
    where: dict[str, set[str]] = {}
    for name, _ in model.named_parameters():
        kind, layer = _kind(name)
        everywhere.setdefault(kind, set()).add(layer)
        if name in trained:
            sizes[kind] = sizes.get(kind, 0) + trained[name]
            where.setdefault(kind, set()).add(layer)
    return tuple(Covered(kind, len(where[kind]), len(everywhere[kind]), size) for kind, size in sizes.items())


def _kind(name: str) -> tuple[str, str]:
    """(module without its place, layer): `model.layers.3.self_attn.q_proj.weight` is (`q_proj`, `3`)."""
    module = name.rpartition(".")[0]
    found = LAYER.match(f"{module}")
    return (found[2].rpartition(".")[2], found[1]) if found else (module.removeprefix("model."), "")


def _work(config: ModelConfig, model: nn.Module, plain: set[str], backward_layers: int) -> Work:
    """Forward through all; the input's gradient through the upper layers; a weight's gradient where it is trained."""
    full, depth = full_work(config), backward_layers / config.n_layers
    in_layers = [(name, p) for name, p in model.named_parameters() if LAYER.match(name) and p.dim() == 2]
    weights = sum(p.numel() for name, p in in_layers if p.requires_grad and name in plain)
    own = sum(p.numel() for name, p in in_layers if p.requires_grad and name not in plain)
    head = next(p for name, p in model.named_parameters(remove_duplicate=False) if name == "lm_head.weight")
    return Work(
        per_token=(1 + depth) * full.per_token / 3 + 2.0 * weights + 6.0 * own,
        per_prediction=full.per_prediction * (1.0 if head.requires_grad else 2 / 3),
        per_pair=full.per_pair * (1 + 2 * depth) / 3,
    )


def advice(settings: Mapping[str, Any], rows: int) -> list[str]:
    """What is known about a method's settings for so many rows; empty where there is nothing to say."""
    entry = method_of(settings)
    return entry.advice(config_of(settings), rows) if hasattr(entry, "advice") else []


def in_words(found: Mapping[str, Any], trained: int, parameters: int, n_layers: int) -> dict[str, str]:
    """The account as a person reads it, from `Coverage.as_dict`."""
    counts = {"n": f"{trained:,}", "all": f"{parameters:,}", "share": f"{100 * found['share_trained']:.2f}"}
    words = {"trainable": tr("{n} of {all} parameters ({share} %), {method}", **counts, method=found["method"])}
    words["covers"] = "; ".join(_covered_in_words(found["covered"]))
    words |= {name: f"{value:g}" for name, value in found["facts"].items()}
    if found["backward_layers"] < n_layers:
        text = "through the upper {n} of {all} layers; nothing below is computed"
        words["backward pass"] = tr(text, n=found["backward_layers"], all=n_layers)
    return words


def _covered_in_words(covered: Sequence[Mapping[str, Any]]) -> list[str]:
    """Kinds that are trained in equally many layers are told together."""
    said = []
    for count, of in dict.fromkeys((item["count"], item["of"]) for item in covered):
        kinds = tr(", ").join(item["kind"] for item in covered if (item["count"], item["of"]) == (count, of))
        said.append(kinds if of == 1 else tr("{kinds} in {count} of {of} layers", kinds=kinds, count=count, of=of))
    return said
