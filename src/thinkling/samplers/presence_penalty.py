"""Presence penalty: a token's logit falls by this much, once, as soon as the completion holds it.

As in OpenAI's interface (reference of chat completions, `presence_penalty`); the prompt does not count.
"""

from __future__ import annotations

from torch import Tensor

from thinkling.core.language import tr

IDLE = 0.0
SEES_PROMPT = False


def problem(value: float) -> str | None:
    """Why this cannot be a penalty."""
    return None if -2 <= value <= 2 else tr("between -2 and 2; 0 changes nothing")


def penalize(logits: Tensor, counts: Tensor, values: Tensor) -> Tensor:
    """logits, counts and values (n,) -> (n,)."""
    return logits - values * (counts > 0)
