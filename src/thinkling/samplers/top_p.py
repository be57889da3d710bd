"""Top-p, the nucleus: only the likeliest tokens whose probabilities together reach p; those as likely as the last too.

Holtzman et al. 2020, equation 2 (arXiv:1904.09751).
"""

from __future__ import annotations

from torch import Tensor

from thinkling.core.language import tr

IDLE = 1.0
"""All tokens stay."""


def problem(value: float) -> str | None:
    """Why this cannot be a probability to reach."""
    return None if 0 < value <= 1 else tr("above 0 and at most 1")


def keep(weights: Tensor, total: Tensor, values: Tensor) -> Tensor:
    """weights (R, K) in falling order, total and values (R, 1) -> (R,) how many stay.

    A token stays while those before it have not reached p: the first one always does.
    """
    before = weights.cumsum(-1) - weights  # (R, K)
    # p = 1 keeps all: rounding must not decide about the last of them.
    return ((before < values * total) | (values >= 1)).sum(-1).clamp_min(1)
