"""What prompt and prefix tuning share: room for tokens that do not exist, and the real ones that they begin as."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.model.decoder import Decoder

COMMON = 5000
"""Lester et al. 2021 (arXiv:2104.08691), section 3.2, draw from the 5,000 most common tokens; merges are numbered about
in the order of how common they are."""


def make_room(model: Decoder, n: int) -> None:
    """Take n virtual tokens off the model's context: what is left is for real ones.

    Raises:
        ConfigError: Nothing would be left.
    """
    positions = model.config.max_positions
    if n >= positions:
        raise ConfigError(
            tr("{n} virtual tokens leave no room in this model's context of {context}", n=n, context=positions),
            where=f"tuning.num_virtual_tokens = {n}",
            fix=tr("take {n} or less", n=max(1, positions // 4)),
        )
    model.config = replace(model.config, max_positions=positions - n)


def common_embeddings(model: Decoder, n: int, generator: torch.Generator) -> Tensor:
    """(n, D) embeddings of tokens drawn from the common ones, in the model's dtype, without a gradient."""
    table = model.model.embed_tokens.weight.detach()
    drawn = torch.randint(min(COMMON, len(table)), (n,), generator=generator).to(table.device)
    return table[drawn]
