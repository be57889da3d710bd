"""Repetition penalty: logits of tokens that prompt or completion hold are divided by it, negative ones multiplied.

Keskar et al. 2019 (CTRL), section 4.1 (arXiv:1909.05858), which divides all of them: a negative logit would become
likelier so, and transformers multiplies it. How often a token came does not matter.
"""

from __future__ import annotations

import torch
from torch import Tensor

from thinkling.core.language import tr

IDLE = 1.0
SEES_PROMPT = True


def problem(value: float) -> str | None:
    """Why this cannot be a factor."""
    return None if 0 < value < float("inf") else tr("above 0; 1 changes nothing")


def penalize(logits: Tensor, counts: Tensor, values: Tensor) -> Tensor:
    """logits, counts and values (n,) -> (n,)."""
    return torch.where(logits < 0, logits * values, logits / values)
