"""LoRA: the weights stay frozen, and a product of two thin matrices beside each of them is trained.

Hu et al. 2021 (arXiv:2106.09685). With `rslora` the correction is scaled by alpha / sqrt(r) instead of alpha / r, so
that its size does not fall with the rank (Kalajdzievski 2023, arXiv:2312.03732); with `dora` the length of each row of
the weights is trained apart from its direction (Liu et al. 2024, arXiv:2402.09353). `dropout` is that of PEFT's LoRA,
with draws of its own (model/dropout.py). Saved adapters are PEFT's.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import nn

from thinkling.core.config import Config as Settings
from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.core.rng import seed_from
from thinkling.core.shelf import closest
from thinkling.model.adapted import block_linears, merge_linears
from thinkling.model.decoder import Decoder
from thinkling.model.dropout import Dropout
from thinkling.model.lora import DoRALinear, LoRALinear

IS_ADAPTER = True
MERGES = True
LEARNING_RATE = 1e-3
"""Ten times that of full fine-tuning, at a scale of 2: Schulman et al. 2025, "LoRA Without Regret"."""

FEW_ROWS, FEW_ROWS_RANK = 10_000, 16
MANY_ROWS, MANY_ROWS_RANK = 100_000, 32
"""What practitioners report: up to 10k rows a rank above 16 learns them by heart; from 100k on, 32 is the least; and
what is larger wants more memory and more epochs."""
LARGEST_SCALE = 4.0
"""alpha / r beyond which the usual learning rates are too high."""


class Config(Settings):
    """Which matrices, and how wide the correction is."""

    rank: int = Field(16, ge=1)
    """r: columns of the correction's first factor. No larger than the smaller side of any matrix covered."""
    alpha: float = Field(32.0, gt=0)
    """The correction is scaled by alpha / r."""
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Ends of the names of the matrices covered: q_proj is that of every layer, layers.3.mlp.up_proj is one."""
    rslora: bool = False
    """Scale by alpha / sqrt(r)."""
    dora: bool = False
    """Train the length of each row of the weights, too."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of the elements that a correction reads, left out at random in each training step."""
    seed: int = 0
    """Of the first factors, where the second ones start at zero, and of dropout."""

    @property
    def scale(self) -> float:
        """What the correction is multiplied with."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def apply(model: Decoder, config: Config) -> None:
    """Freeze the model and put a LoRALinear in the place of each matrix covered.

    Raises:
        ConfigError: A target that is nothing in this model, or a rank above the width of a matrix.
    """
    covered = _covered(model, config)
    _refuse_wide(covered, config)
    model.requires_grad_(False)
    kind = DoRALinear if config.dora else LoRALinear
    model.dropout = Dropout(config.dropout, config.seed) if config.dropout else None
    for name, linear in covered.items():
        generator = torch.Generator().manual_seed(seed_from("lora", config.seed, name))
        parent, _, last = name.rpartition(".")
        corrected = kind(linear, config.rank, config.scale, generator)
        if model.dropout is not None:
            corrected.drop_inputs(model.dropout, name)
        setattr(model.get_submodule(parent), last, corrected)


def _covered(model: Decoder, config: Config) -> dict[str, nn.Linear]:
    """The matrices that the targets name, in the model's order.

    Raises:
        ConfigError: A target matches nothing, or there is none.
    """
    linears = block_linears(model)
    kinds = list(dict.fromkeys(name.rpartition(".")[2] for name in linears))
    if not config.targets:
        raise ConfigError(
            tr("everything is frozen: targets is empty"),
            where="tuning.targets",
            fix=tr("name some of {names}", names=", ".join(kinds)),
        )
    for target in config.targets:
        if not any(_matches(name, target) for name in linears):
            near = closest(target, kinds)
            there = tr("in this model there are {names}", names=", ".join(kinds))
            raise ConfigError(
                tr("the target '{target}' is the name of nothing that an adapter can cover", target=target),
                where=f"tuning.targets = {list(config.targets)}",
                fix=f"{near} {there}".strip(),
            )
    return {n: linear for n, linear in linears.items() if any(_matches(n, target) for target in config.targets)}


def _matches(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def _refuse_wide(covered: dict[str, nn.Linear], config: Config) -> None:
    """A rank above the smaller side adds parameters and no freedom."""
    widths = {name.rpartition(".")[2]: min(m.in_features, m.out_features) for name, m in covered.items()}
    narrow = {name: width for name, width in widths.items() if config.rank > width}
    if narrow:
        name, least = min(narrow.items(), key=lambda item: item[1])
        some = (
            "take a rank of at most {width}, leave {names} out of the targets, or train everything with "
            "tuning.method=full"
        )
        every = "take a rank of at most {width}, or train everything with tuning.method=full"
        raise ConfigError(
            tr("rank {rank} is above the width {width} of {name}", rank=config.rank, width=least, name=name),
            where=f"tuning.rank = {config.rank}",
            fix=tr(some if len(narrow) < len(widths) else every, width=least, names=", ".join(narrow)),
        )


def merge(model: Decoder) -> None:
    """Fold each correction into its matrix."""
    merge_linears(model)
    model.dropout = None


def peft_config(config: Config, model: Decoder) -> dict[str, Any] | None:
    """adapter_config.json of PEFT's LoRA."""
    return {
        "peft_type": "LORA",
        "r": config.rank,
        "lora_alpha": config.alpha,
        "target_modules": list(config.targets),
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "lora_dropout": config.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
    }


def facts(config: Config) -> dict[str, float]:
    """Rank and scale, for the report before training."""
    dropout = {"dropout": config.dropout} if config.dropout else {}
    return {"rank": float(config.rank), "scale": config.scale, **dropout}


def advice(config: Config, rows: int) -> list[str]:
    """What practitioners found about rank and scale at so many rows."""
    said = []
    if rows <= FEW_ROWS and config.rank > FEW_ROWS_RANK:
        text = "rank {rank} for {rows} rows: up to {few} rows, more than {best} tends to learn them by heart"
        said.append(tr(text, rank=config.rank, rows=f"{rows:,}", few=f"{FEW_ROWS:,}", best=FEW_ROWS_RANK))
    if rows > FEW_ROWS and config.rank > FEW_ROWS_RANK:
        text = (
            "rank {rank}: practitioners give ranks above {usual} more epochs; eval_steps and "
            "save_best=loss/validation tell when there were enough"
        )
        said.append(tr(text, rank=config.rank, usual=FEW_ROWS_RANK))
    if rows >= MANY_ROWS and config.rank < MANY_ROWS_RANK:
        text = "rank {rank} for {rows} rows: from {many} rows on, less than {best} may hold too little"
        said.append(tr(text, rank=config.rank, rows=f"{rows:,}", many=f"{MANY_ROWS:,}", best=MANY_ROWS_RANK))
    if config.scale > LARGEST_SCALE and not config.rslora:
        text = "the correction is scaled by {scale}: usual are 1 to 2, and learning rates are meant for those"
        said.append(tr(text, scale=f"{config.scale:g}"))
    return said
