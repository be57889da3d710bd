"""The packed stream: what every stage trains on, and nothing else. No padding, no batch axis.

N tokens of S segments lie one behind the other. `loss_weights[i]` says how much the loss counts the prediction *of*
token i, which the model makes at position i - 1 of the same segment; prompts weigh 0. Any normalisation by sequence or
group is already in the weights. A segment may name an earlier one as its prefix (prefixes.py): it sees that one's
tokens and what they see, and its positions go on from there.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thinkling.core.device import moved


@dataclass(frozen=True)
class Batch:
    """A packed stream of weighted tokens."""

    tokens: Tensor
    """(N,) int64."""
    positions: Tensor
    """(N,) int64, from 0 in each segment."""
    loss_weights: Tensor
    """(N,) float32; 0 at the first token of every segment, which nothing predicts."""
    starts: Tensor
    """(S + 1,) int64: segment s is tokens[starts[s]:starts[s + 1]]."""
    groups: tuple[int, ...]
    """One number a segment; segments of a group are never parted by a micro-batch and lie side by side."""
    sources: tuple[str, ...]
    """One name a segment: the row it came from, for error messages."""
    columns: dict[str, Tensor] = field(default_factory=dict)
    """Further per-token columns, (N,) or (N, k): old_logprobs, advantages, teacher_logprobs."""
    prefixes: tuple[int, ...] = ()
    """The segment that each continues, an earlier one, or -1; empty: none continues another."""

    @property
    def n_tokens(self) -> int:
        return int(self.tokens.shape[0])

    @property
    def n_segments(self) -> int:
        return len(self.sources)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each segment."""
        return (self.starts[1:] - self.starts[:-1]).tolist()

    def targets(self) -> Tensor:
        """(M,) places of the tokens whose prediction counts."""
        return self.loss_weights.nonzero().squeeze(1)

    def predictors(self) -> Tensor:
        """(M,) the place that predicts each target: the one before it, for a first token the end of its prefix."""
        before = torch.arange(-1, self.n_tokens - 1)
        for s, prefix in enumerate(self.prefixes):
            if prefix >= 0:
                before[self.starts[s]] = self.starts[prefix + 1] - 1
        return before.to(self.tokens.device)[self.targets()]

    def supervised(self) -> Batch:
        """The M counted tokens alone, weights and columns included: what a loss sees. Its segments mean nothing."""
        chosen = self.targets()
        return self._rows(chosen, starts=torch.tensor([0, len(chosen)]), groups=(0,), sources=("",))

    def rows(self, low: int, high: int) -> Batch:
        """Tokens low to high as one nameless segment, for a chunk of the head."""
        return self._rows(slice(low, high), starts=torch.tensor([0, high - low]), groups=(0,), sources=("",))

    def _rows(self, chosen: Tensor | slice, starts: Tensor, groups: tuple[int, ...], sources: tuple[str, ...]) -> Batch:
        return Batch(
            tokens=self.tokens[chosen],
            positions=self.positions[chosen],
            loss_weights=self.loss_weights[chosen],
            starts=starts,
            groups=groups,
            sources=sources,
            columns={name: column[chosen] for name, column in self.columns.items()},
        )

    def segments(self, low: int, high: int) -> Batch:
        """Segments low to high as a Batch of their own."""
        assert not self.prefixes, "a stream is split before its prefixes are shared"
        begin, end = int(self.starts[low]), int(self.starts[high])
        return self._rows(
            slice(begin, end),
            starts=self.starts[low : high + 1] - begin,
            groups=self.groups[low:high],
            sources=self.sources[low:high],
        )

    def split(self, max_tokens: int) -> list[Batch]:
        """Micro-batches of at most `max_tokens` tokens that keep groups whole; one larger group stands alone.

        Losses return sums and their counts are known beforehand, so that splitting leaves the whole batch's gradient.
        """
        parts: list[Batch] = []
        low = 0
        boundaries = [s for s in range(1, self.n_segments) if self.groups[s] != self.groups[s - 1]] + [self.n_segments]
        end = low
        for boundary in boundaries:
            if end > low and int(self.starts[boundary] - self.starts[low]) > max_tokens:
                parts.append(self.segments(low, end))
                low = end
            end = boundary
        parts.append(self.segments(low, end))
        return parts

    def to(self, device: torch.device | str) -> Batch:
        """The same stream on another device; `starts` stays on the host, where layouts are planned."""
        return replace(
            self,
            tokens=moved(self.tokens, device),
            positions=moved(self.positions, device),
            loss_weights=moved(self.loss_weights, device),
            columns={name: moved(column, device) for name, column in self.columns.items()},
        )


def pack(
    tokens: list[list[int]],
    weights: list[list[float]],
    *,
    groups: list[int] | None = None,
    sources: list[str] | None = None,
) -> Batch:
    """S rows of tokens with their weights to one stream; the first weight of each row is set to 0.

    A segment's first token has no predictor, so its weight could never count.
    """
    assert len(tokens) == len(weights), (len(tokens), len(weights))
    assert all(len(t) == len(w) and t for t, w in zip(tokens, weights, strict=True)), (
        "a row is empty or its weights do not fit"
    )
    return joined(
        np.array([t for row in tokens for t in row], dtype=np.int64),
        np.array([w for row in weights for w in row], dtype=np.float32),
        np.array([len(row) for row in tokens], dtype=np.int64),
        groups=groups,
        sources=sources,
    )


def joined(
    tokens: NDArray[np.int64],
    weights: NDArray[np.float32],
    lengths: NDArray[np.int64],
    *,
    groups: list[int] | None = None,
    sources: list[str] | None = None,
) -> Batch:
    """As `pack`, of rows that already lie one behind the other: (N,), (N,) and (S,).

    `weights` is changed in place: the first of each row becomes 0. Nothing here is computed by torch, because a thread
    other than the one that trains may call it: torch's first parallel operation in a thread starts a team of OpenMP
    threads for it, and while there are more of those than cores every barrier of the training sleeps instead of
    spinning. Measured on two cores: LoRA steps took 1.3 times as long.
    """
    starts = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths)])  # (S + 1,)
    weights[starts[:-1]] = 0.0
    return Batch(
        tokens=torch.from_numpy(tokens),
        positions=torch.from_numpy(np.arange(len(tokens)) - np.repeat(starts[:-1], lengths)),
        loss_weights=torch.from_numpy(weights),
        starts=torch.from_numpy(starts),
        groups=tuple(groups if groups is not None else range(len(lengths))),
        sources=tuple(sources if sources is not None else [f"row {i}" for i in range(len(lengths))]),
    )
