"""Several sources of rows, each with a weight, and which rows an epoch holds, in which order.

A source of weight w gives w times its rows to an epoch, exactly: its rows come in an endless stream, one pass after
the other, each pass in an order of its own, and epoch e takes the places from floor(e w n) to floor((e + 1) w n). So
every row has come floor(k w) or ceil(k w) times after k epochs, and nothing depends on chance but the order. Weight 1
is every row once an epoch, 2 twice, 0.25 a quarter of the rows, another quarter in the next epoch.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import overload

import numpy as np
from numpy.typing import NDArray

from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.data.order import Permutation, Places
from thinkling.data.tokens import TokenFile, TokenRow

BLOCK = 1 << 16
"""Places of a stream that are looked at together."""


@dataclass(frozen=True)
class Source:
    """Rows of one entry of `data`."""

    rows: TokenFile
    label: str = ""
    weight: Fraction = Fraction(1)
    """How often each row comes in an epoch."""


@dataclass(frozen=True)
class Share:
    """What one source gives."""

    rows: float = 0
    tokens: float = 0
    supervised_tokens: float = 0

    def __add__(self, other: Share) -> Share:
        return Share(
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.supervised_tokens + other.supervised_tokens,
        )

    def __mul__(self, times: float) -> Share:
        return Share(self.rows * times, self.tokens * times, self.supervised_tokens * times)


class Mixture(Sequence[TokenRow]):
    """The rows of all sources, numbered through; `Epoch` says which of them come when."""

    def __init__(self, sources: Sequence[Source]) -> None:
        """Take the sources in the order of their entries.

        Raises:
            ConfigError: The weights are so small that an epoch might hold no row.
        """
        self.sources = tuple(sources)
        self._starts = np.array([0, *np.cumsum([len(source.rows) for source in sources])], dtype=np.int64)
        if len(self) and not any(len(source.rows) * source.weight >= 1 for source in sources):
            raise ConfigError(
                tr("the weights are so small that an epoch holds no row"),
                where=tr("data, weight"),
                fix=tr("raise them: a weight says how often each row comes in an epoch"),
            )

    def __len__(self) -> int:
        return int(self._starts[-1])

    @overload
    def __getitem__(self, place: int) -> TokenRow: ...
    @overload
    def __getitem__(self, place: slice) -> list[TokenRow]: ...
    def __getitem__(self, place: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        rows, within = self._at(place % len(self))
        return rows[within]

    def __iter__(self) -> Iterator[TokenRow]:
        return (row for source in self.sources for row in source.rows)

    def _at(self, row: int) -> tuple[TokenFile, int]:
        number = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self.sources[number].rows, row - int(self._starts[number])

    @property
    def digest(self) -> str:
        """Names the very tokens and weights of all sources, and how they are mixed: 64 hex digits."""
        parts = [f"{source.rows.digest} {source.weight}" for source in self.sources]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(source.rows.longest for source in self.sources)

    def row(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.float32], str]:
        """(N,) tokens, (N,) weights and the name of one row."""
        rows, within = self._at(row)
        return rows.row(within)

    def start(self, number: int) -> int:
        """The first row of a source."""
        return int(self._starts[number])

    def sources_of(self, rows: Places) -> NDArray[np.int64]:
        """(R,) rows to (R,) the number of the source of each, from 0."""
        return np.searchsorted(self._starts, rows, side="right") - 1

    def lengths(self, rows: Places) -> NDArray[np.int64]:
        """(R,) rows to (R,) tokens of each."""
        found = np.empty(len(rows), dtype=np.int64)
        owners = self.sources_of(rows)
        for number in np.unique(owners):
            here = owners == number
            found[here] = self.sources[number].rows.lengths(rows[here] - self._starts[number])
        return found


class Epoch:
    """The rows of one epoch in their order: a pure function of mixture, seed and epoch, computed where it is asked."""

    def __init__(self, mixture: Mixture, seed: int, epoch: int) -> None:
        self._mixture = mixture
        self._seed = seed
        drawn = [_drawn(source, epoch) for source in mixture.sources]
        self._firsts = [low for low, _ in drawn]
        self._starts = np.array([0, *np.cumsum([high - low for low, high in drawn])], dtype=np.int64)
        self._order = Permutation(len(self), "order of rows", seed, epoch)
        self._pass = functools.lru_cache(maxsize=64)(self._order_of_pass)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def rows(self, low: int, high: int) -> Places:
        """The rows at places low to high of the order, as numbers of the mixture."""
        drawn = self._order[np.arange(low, high)]
        rows = np.empty(len(drawn), dtype=np.int64)
        owners = np.searchsorted(self._starts, drawn, side="right") - 1
        for number in np.unique(owners):
            here = owners == number
            stream = drawn[here] - self._starts[number] + self._firsts[number]
            rows[here] = self._mixture.start(number) + self._streamed(int(number), stream)
        return rows

    def _streamed(self, number: int, stream: Places) -> Places:
        """The rows of one source at these places of its endless stream."""
        n = len(self._mixture.sources[number].rows)
        passes, places = np.divmod(stream, n)
        rows = np.empty(len(stream), dtype=np.int64)
        for one in np.unique(passes):
            here = passes == one
            rows[here] = self._pass(number, int(one))[places[here]]
        return rows

    def _order_of_pass(self, number: int, one: int) -> Permutation:
        return Permutation(len(self._mixture.sources[number].rows), "rows of a source", self._seed, number, one)

    def shares(self) -> list[Share]:
        """What each source gives to this epoch, exactly."""
        return [self._share(number) for number in range(len(self._firsts))]

    def _share(self, number: int) -> Share:
        source, first = self._mixture.sources[number], self._firsts[number]
        n_drawn = int(self._starts[number + 1] - self._starts[number])
        if source.weight.denominator == 1:  # whole passes: every row as often as every other
            return Share(len(source.rows), source.rows.n_tokens, source.rows.n_supervised) * int(source.weight)
        tokens = supervised = 0
        for low in range(first, first + n_drawn, BLOCK):
            rows = self._streamed(number, np.arange(low, min(low + BLOCK, first + n_drawn)))
            tokens += int(source.rows.lengths(rows).sum())
            supervised += int(source.rows.supervised(rows).sum())
        return Share(n_drawn, tokens, supervised)


def _drawn(source: Source, epoch: int) -> tuple[int, int]:
    """From where to where an epoch takes the stream of a source."""
    weighted = len(source.rows) * source.weight
    return int(epoch * weighted // 1), int((epoch + 1) * weighted // 1)
