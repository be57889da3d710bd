"""Contrastive search: of the k likeliest tokens the one that is likely and unlike all that came before.

Su et al. 2022, equation 5 (arXiv:2202.06417): (1 - alpha) p(v) - alpha max_j cos(h_v, h_j), where h_v is the last
hidden state after the candidate v and h_j those of all tokens so far, the prompt's among them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

CHOOSES = "sequences"


class SeeingPaths(Protocol):
    """A model that follows several continuations of one prompt, and shows its hidden states."""

    def start(self) -> Tensor:
        """(1, V) log-probabilities of the first token."""

    def extend(self, parents: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """(n, V) log-probabilities after row `parents[i]` of the last result and one more token, `tokens[i]`."""

    @property
    def hidden(self) -> Tensor:
        """Of the last call: (N, D) of all N tokens of the prompt, or (n, D) of the n new tokens."""


def search(
    paths: SeeingPaths, *, k: int, alpha: float, ends: Collection[int], max_new_tokens: int
) -> tuple[list[int], list[float]]:
    """The tokens of one completion, and their log-probabilities in nats.

    Args:
        k: Candidates of a step.
        alpha: 0 is greedy; at 1 only likeness counts.
    """
    log_p = paths.start()[0]  # (V,)
    seen = F.normalize(paths.hidden.float(), dim=-1)  # (N, D)
    tokens: list[int] = []
    logprobs: list[float] = []
    parent = 0
    while len(tokens) < max_new_tokens:
        top = log_p.topk(min(k, len(log_p)))  # the likeliest first
        candidates: list[int] = top.indices.tolist()
        following = paths.extend([parent] * len(candidates), candidates)  # (k, V)
        hidden = F.normalize(paths.hidden.float(), dim=-1)  # (k, D)
        likeness = (hidden @ seen.T).amax(-1)  # (k,)
        parent = int(torch.argmax((1 - alpha) * top.values.exp() - alpha * likeness))
        tokens.append(candidates[parent])
        logprobs.append(float(top.values[parent]))
        if tokens[-1] in ends:
            break
        seen, log_p = torch.cat([seen, hidden[parent : parent + 1]]), following[parent]
    return tokens, logprobs
