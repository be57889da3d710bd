"""Min-p: only tokens at least `min_p` times as likely as the likeliest can be drawn.

Nguyen et al. 2024, section 3 (arXiv:2407.01082); here, as in transformers, after temperature, top-k and top-p.
"""

from __future__ import annotations

from torch import Tensor

from thinkling.core.language import tr

IDLE = 0.0
"""All tokens stay."""


def problem(value: float) -> str | None:
    """Why this cannot be a share of the likeliest token's probability."""
    return None if 0 <= value <= 1 else tr("at least 0 and at most 1")


def keep(weights: Tensor, total: Tensor, values: Tensor) -> Tensor:
    """weights (R, K) in falling order, values (R, 1) -> (R,) how many stay."""
    return (weights >= values * weights[:, :1]).sum(-1).clamp_min(1)
