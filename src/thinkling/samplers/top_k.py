"""Top-k: only the k likeliest tokens can be drawn; those as likely as the last of them too.

Fan et al. 2018, section 5.4 (arXiv:1805.04833).
"""

from __future__ import annotations

import torch
from torch import Tensor

from thinkling.core.language import tr

IDLE = 0
"""All tokens stay."""


def problem(value: int) -> str | None:
    """Why this cannot be a number of tokens."""
    return None if value >= 0 and value == int(value) else tr("a whole number of tokens; 0 keeps all")


def keep(weights: Tensor, total: Tensor, values: Tensor) -> Tensor:
    """weights (R, K) in falling order, total and values (R, 1) -> (R,) how many stay."""
    return torch.where(values > 0, values, weights.shape[1]).squeeze(1).long().clamp_max(weights.shape[1])
