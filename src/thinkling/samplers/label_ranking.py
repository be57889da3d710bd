"""Label ranking: which of given texts a model finds likeliest after a prompt, each taken as a whole.

Scores are the log-likelihoods of all tokens of a label and of its end. Divided by the number of tokens they no longer
favour short labels; less the label's log-likelihood without the question (domain-conditional PMI of Holtzman et al.
2021, arXiv:2104.08315) they no longer favour texts that are common anyhow.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

CHOOSES = "sequences"


@dataclass(frozen=True)
class Ranked:
    """One label's place in a ranking."""

    index: int
    """Which of the labels that were given."""
    score: float
    """Nats, or nats per token; higher is better."""
    logprob: float
    """Log-likelihood of the whole label in nats, nothing normalised."""


def rank(
    logprobs: Sequence[Sequence[float]],
    *,
    prior: Sequence[Sequence[float]] | None = None,
    length_normalized: bool = False,
) -> list[Ranked]:
    """Labels from the best to the worst; of several alike the first one given comes first.

    Args:
        logprobs: Nats of each token of each label after the prompt.
        prior: The same after a prompt that asks nothing; it is subtracted.
        length_normalized: Divide by the number of tokens, after the subtraction.
    """
    scores = [math.fsum(label) for label in logprobs]
    if prior is not None:
        scores = [score - math.fsum(label) for score, label in zip(scores, prior, strict=True)]
    if length_normalized:
        scores = [score / len(label) for score, label in zip(scores, logprobs, strict=True)]
    ranked = [Ranked(i, score, math.fsum(logprobs[i])) for i, score in enumerate(scores)]
    return sorted(ranked, key=lambda one: (-one.score, one.index))
