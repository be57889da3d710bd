"""Beam search: the likeliest completions that can be found when `width` of them are followed side by side.

Each step extends every beam by every token and keeps the best; a beam that ends counts only if it is among the best
`width` of its step, and its score is its log-probability over length ** length_penalty. It is over when no living beam,
at its present length, beats the worst of `width` finished ones: transformers' rule for early_stopping=False.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

CHOOSES = "sequences"


@dataclass(frozen=True)
class Beam:
    """One completion of a search."""

    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    """Nats of each token."""
    score: float
    """Their sum over length ** length_penalty."""
    is_ended: bool
    """By an end token, not by the limit."""


class Paths(Protocol):
    """A model that follows several continuations of one prompt."""

    def start(self) -> Tensor:
        """(1, V) log-probabilities of the first token."""

    def extend(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """(n, V) log-probabilities after row `parents[i]` of the last result and one more token, `tokens[i]`."""


def search(
    paths: Paths, *, width: int, ends: Collection[int], max_new_tokens: int, length_penalty: float = 1.0
) -> list[Beam]:
    """At most `width` completions, the best one first.

    Args:
        ends: Tokens that end a completion; they are its last token.
        length_penalty: Above 0 long completions gain.
    """
    alive = [Beam((), (), 0.0, False)]
    finished: list[Beam] = []
    log_p = paths.start()  # (1, V)
    for length in range(1, max_new_tokens + 1):
        best = _best(alive, log_p, (1 + len(ends)) * width)
        following: list[tuple[int, Beam]] = []
        for place, (parent, beam) in enumerate(best):
            if beam.tokens[-1] in ends or length == max_new_tokens:
                if place < width:
                    score = beam.score / length**length_penalty
                    finished.append(Beam(beam.tokens, beam.logprobs, score, beam.tokens[-1] in ends))
            elif len(following) < width:
                following.append((parent, beam))
        finished = sorted(finished, key=lambda one: -one.score)[:width]
        if not following or _is_over(following[0][1], finished, width, length**length_penalty):
            break
        alive = [beam for _, beam in following]
        log_p = paths.extend([parent for parent, _ in following], [beam.tokens[-1] for beam in alive])
    return finished


def _is_over(likeliest: Beam, finished: list[Beam], width: int, divisor: float) -> bool:
    return len(finished) == width and likeliest.score / divisor <= finished[-1].score


def _best(alive: list[Beam], log_p: Tensor, n: int) -> list[tuple[int, Beam]]:
    """The n best (parent, beam extended by a token), by sums of log-probabilities; log_p (B, V)."""
    so_far = torch.tensor([beam.score for beam in alive], dtype=torch.float64, device=log_p.device)
    sums = so_far.unsqueeze(1) + log_p.double()  # (B, V)
    top = sums.flatten().topk(min(n, sums.numel()))
    found = []
    for score, place in zip(top.values.tolist(), top.indices.tolist(), strict=True):
        parent, token = divmod(place, log_p.shape[1])
        before = alive[parent]
        logprobs = (*before.logprobs, float(log_p[parent, token]))
        found.append((parent, Beam((*before.tokens, token), logprobs, score, False)))
    return found
