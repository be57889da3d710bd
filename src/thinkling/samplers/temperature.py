"""Temperature: logits are divided by it before anything is cut off; 0 takes the likeliest token.

Ackley, Hinton & Sejnowski 1985 (doi:10.1207/s15516709cog0901_7). Below 1 likely tokens become likelier.
"""

from __future__ import annotations

from torch import Tensor

from thinkling.core.language import tr

IDLE = 0.0
"""Nothing is drawn at all."""
LOWEST = 1e-3
"""Below it logits divided by the temperature overflow fp32."""


def problem(value: float) -> str | None:
    """Why this cannot be a temperature."""
    return None if value == 0 or LOWEST <= value < float("inf") else tr("0 (greedy) or at least 0.001")


def scale(logits: Tensor, values: Tensor) -> None:
    """Divide logits, in place, by the temperatures above 0 that broadcast to them."""
    logits.div_(values)
