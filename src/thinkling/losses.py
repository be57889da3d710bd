"""What training minimises: pure functions over a Batch and what the head said, all in one notation.

A loss never divides. It names its terms; for each it gives a count from the batch's columns alone, known before the
first forward pass and summed over all micro-batches and ranks, and a sum over the tokens it is shown. The trainer
minimises

    total = sum over terms of coefficient * sum / global count.

docs/design-loss-interface.md works SFT, DPO, GRPO, PPO with a critic and on-policy distillation through this interface.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from thinkling.data.batch import Batch
from thinkling.model.head import HeadOutput


@dataclass(frozen=True)
class Loss:
    """One objective, as the trainer sees it."""

    needs: tuple[str, ...]
    """Fields of HeadOutput that `sums` reads."""
    coefficients: Mapping[str, float]
    """Term to its weight in the total."""
    counts: Callable[[Batch], Mapping[str, float]]
    """Term to what its sum is divided by, from the columns of a whole Batch."""
    sums: Callable[[HeadOutput, Batch], Mapping[str, Tensor]]
    """Term to a differentiable sum over the counted tokens it is shown: head output and batch have M rows, or any
    chunk of them, so a sum over chunks must equal the sum over all."""


def cross_entropy_sums(head: HeadOutput, batch: Batch) -> Mapping[str, Tensor]:
    """Negative log-likelihood, weighted: -sum of w_i log p(token_i). Nats."""
    return {"nll": -(head.logprobs * batch.loss_weights).sum()}


def cross_entropy_counts(batch: Batch) -> Mapping[str, float]:
    """The summed weights: the mean is per counted token, whichever row or micro-batch it is in."""
    return {"nll": float(batch.loss_weights.sum())}


CROSS_ENTROPY = Loss(
    needs=("logprobs",), coefficients={"nll": 1.0}, counts=cross_entropy_counts, sums=cross_entropy_sums
)
"""Maximum likelihood of the counted tokens: pretraining, SFT, distillation from texts."""
