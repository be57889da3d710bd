"""Dropout whose draws are no stream but a hash: of the step, the matrix, and the tokens of the row up to this one.

A stream of random numbers is drawn in the order in which things are computed: a smaller micro-batch, a beginning that
rows share, or a resumed run would train on other draws. A hash of what is computed has none of that: the gradient of a
step is the same however the step is cut (tests/test_dropout.py). The price: rows that begin alike leave out the same
elements in their common beginning within a step, whether it is computed once for all of them or for each. What is left
out of one token's input is one of PATTERNS drawings, made anew for each step: hashing each element took as long as the
products themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thinkling.core.device import moved
from thinkling.core.rng import seed_from
from thinkling.model.attend import Attend, PackedAttend

FIRST, SECOND, THIRD = -7046029254386353131, -4658895280553007687, -7723592293110705685
"""Odd numbers without a pattern: the increment and the two factors of SplitMix64 (Steele et al. 2014), as int64."""
BITS = 12
PATTERNS = 2**BITS
"""Drawings of a step. Two tokens have the same one in one matrix of 4,096, which is too seldom to matter."""


def mixed(x: Tensor) -> Tensor:
    """int64 to int64: numbers that differ anywhere give numbers that differ everywhere. SplitMix64's last step."""
    x = (x ^ _shifted(x, 30)) * SECOND
    x = (x ^ _shifted(x, 27)) * THIRD
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """To the right, zeros from the left: torch's own shift repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def token_keys(tokens: Tensor, positions: Tensor, attend: PackedAttend, salt: int) -> Tensor:
    """(N,) int64, a hash of the salt, of each token and of all before it in its row, prefixes included."""
    own = mixed(tokens * FIRST + positions * SECOND + salt)  # (N,)
    sums = torch.cat([own.new_zeros(1), own.cumsum(0)])  # (N + 1,) modulo 2^64
    starts = moved(attend.starts, sums.device)
    begun = -sums[starts[:-1]]  # (S,)
    if attend.prefixes:
        begun += _before(sums[starts[1:]] + begun, attend.prefixes)
    return mixed(sums[1:] + begun.repeat_interleave(starts[1:] - starts[:-1], output_size=len(tokens)))


def _before(totals: Tensor, prefixes: tuple[int, ...]) -> Tensor:
    """(S,) the sum over all that each segment continues, from the sums (S,) over the segments."""
    there = totals.cpu()
    before = torch.zeros_like(there)
    for s, prefix in enumerate(prefixes):
        if prefix >= 0:
            before[s] = before[prefix] + there[prefix]
    return moved(before, totals.device)


@dataclass(frozen=True)
class Drop:
    """Which elements of one matrix's input are left out."""

    chosen: Tensor
    """(N,) int64, the pattern of each token."""
    patterns: Tensor
    """(PATTERNS, in) bool."""
    share: float

    def mask(self) -> Tensor:
        """(N, in) bool, True where an element is left out."""
        return self.patterns.index_select(0, self.chosen)


class Dropout:
    """The dropout of one model: silent outside of a training step.

    Args:
        share: Of the elements, how many are left out, from 0 to below 1.
        seed: Of the draws.
    """

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.seed = share, seed
        self.step: int | None = None
        self._keys: Tensor | None = None
        self._patterns: dict[int, Tensor] = {}

    def begin(self, step: int | None) -> None:
        """What follows belongs to this step; None: to no step."""
        self.step, self._keys, self._patterns = step, None, {}

    def see(self, tokens: Tensor, positions: Tensor, attend: Attend) -> None:
        """Called with each stream before it is computed."""
        if self.step is not None:
            assert isinstance(attend, PackedAttend), attend
            self._keys = token_keys(tokens, positions, attend, seed_from("dropout", self.seed, self.step))

    def of(self, name: str, width: int) -> Drop | None:
        """What is left out of the input (N, width) of the matrix of this name; None outside of a training step."""
        if self._keys is None:
            return None
        own = seed_from("dropout", name) | 1  # multiply-shift hashing: Dietzfelbinger et al. 1997
        return Drop(_shifted(self._keys * own, 64 - BITS), self._of_width(width), self.share)

    def _of_width(self, width: int) -> Tensor:
        """(PATTERNS, width) bool, of this step."""
        assert self._keys is not None
        if width not in self._patterns:
            generator = torch.Generator().manual_seed(seed_from("dropout", self.seed, self.step, width))
            drawn = torch.rand((PATTERNS, width), generator=generator) < self.share
            self._patterns[width] = moved(drawn, self._keys.device)
        return self._patterns[width]
