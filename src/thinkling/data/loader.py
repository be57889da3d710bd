"""Batches of rows in an order that is a pure function of the seed and the epoch.

The whole plan of an epoch is known before its first batch: which rows stand in which batch. So the number of steps can
be promised, a cursor of two integers is enough to go on after a stop, and no row is lost or repeated within an epoch.
Batches are no fuller than their number asks for, so that the last of an epoch is seldom a small, noisy step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from thinkling.core.errors import ConfigError, RunError
from thinkling.core.rng import generator, seed_from
from thinkling.data.batch import Batch, pack
from thinkling.data.prepare import TokenRow


def epoch_order(n_rows: int, seed: int, epoch: int) -> list[int]:
    """All row numbers once, in the order of this epoch."""
    order = list(range(n_rows))
    generator("order of rows", seed, epoch).shuffle(order)
    return order


def by_tokens(lengths: Sequence[int], batch_tokens: int) -> list[int]:
    """How many consecutive rows stand in each batch of at most `batch_tokens` tokens; a longer row stands alone.

    As few batches as filling one after the other gives, and then the smallest limit that still gives as few.
    """
    fewest = len(_fill(lengths, batch_tokens))
    low, high = 1, batch_tokens
    while low < high:
        middle = (low + high) // 2
        if len(_fill(lengths, middle)) <= fewest:
            high = middle
        else:
            low = middle + 1
    return _fill(lengths, low)


def _fill(lengths: Sequence[int], limit: int) -> list[int]:
    counts: list[int] = []
    tokens = limit + 1  # so that the first row opens a batch
    for length in lengths:
        if tokens + length > limit:
            counts.append(0)
            tokens = 0
        counts[-1] += 1
        tokens += length
    return counts


def by_rows(n_rows: int, batch_rows: int) -> list[int]:
    """How many rows stand in each batch of at most `batch_rows`; the counts differ by one at most."""
    n_batches = math.ceil(n_rows / batch_rows)
    return [n_rows * (b + 1) // n_batches - n_rows * b // n_batches for b in range(n_batches)]


@dataclass(frozen=True)
class Cursor:
    """The next batch: what a checkpoint keeps of a loader."""

    epoch: int
    batch: int
    data: int
    """A hash of rows, limits and seed; another one cannot be continued."""


class Loader:
    """Endless epochs over rows, one packed `Batch` a step. State: the cursor of the next batch."""

    def __init__(
        self, rows: Sequence[TokenRow], *, batch_tokens: int | None = None, batch_rows: int | None = None, seed: int = 0
    ) -> None:
        """Take either a budget of tokens or a number of rows a batch.

        Raises:
            ConfigError: Both or neither are given, or not a positive number.
        """
        given = [limit for limit in (batch_tokens, batch_rows) if limit is not None]
        if len(given) != 1 or given[0] < 1:
            raise ConfigError(
                f"a step needs one size: batch_tokens is {batch_tokens}, batch_rows {batch_rows}",
                where="batch_tokens, batch_rows",
                fix="set exactly one of them, to 1 or more",
            )
        assert rows, "prepare() refuses empty data"
        self.rows = list(rows)
        self.batch_tokens, self.batch_rows, self.seed = batch_tokens, batch_rows, seed
        self._epoch = self._batch = 0
        self._planned: tuple[int, list[list[int]]] | None = None
        contents = [(row.tokens, row.weights) for row in self.rows]
        self._data = seed_from("loader", contents, batch_tokens, batch_rows, seed)

    def plan(self, epoch: int) -> list[list[int]]:
        """Row numbers of each batch of an epoch."""
        if self._planned is None or self._planned[0] != epoch:
            order = epoch_order(len(self.rows), self.seed, epoch)
            if self.batch_tokens is not None:
                counts = by_tokens([len(self.rows[row].tokens) for row in order], self.batch_tokens)
            else:
                assert self.batch_rows is not None
                counts = by_rows(len(order), self.batch_rows)
            remaining = iter(order)
            self._planned = (epoch, [[next(remaining) for _ in range(count)] for count in counts])
        return self._planned[1]

    def n_batches(self, epochs: int) -> int:
        """Batches of the first `epochs` epochs, exactly."""
        return sum(len(self.plan(epoch)) for epoch in range(epochs))

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the cursor on, without end. When one is handed out the cursor already stands on the next."""
        while True:
            plan = self.plan(self._epoch)
            chosen = plan[self._batch]
            self._batch += 1
            if self._batch == len(plan):
                self._epoch, self._batch = self._epoch + 1, 0
            yield self.packed(chosen)

    def epochs(self, epochs: int) -> Iterator[Batch]:
        """Batches from the cursor to the end of epoch `epochs` (counted from 1)."""
        batches = iter(self)
        while self._epoch < epochs:
            yield next(batches)

    def packed(self, chosen: Sequence[int]) -> Batch:
        """These rows as one stream."""
        rows = [self.rows[row] for row in chosen]
        return pack([row.tokens for row in rows], [row.weights for row in rows], sources=[row.source for row in rows])

    def state(self) -> dict[str, Any]:
        """The cursor, for a checkpoint: plain integers."""
        return {"epoch": self._epoch, "batch": self._batch, "data": self._data}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            RunError: It was taken over other rows, another batch size or another seed.
        """
        if state["data"] != self._data:
            raise RunError(
                "the checkpoint was made with other data, another batch size or another seed",
                where=f"it stands at epoch {state['epoch']}, batch {state['batch']}",
                fix="go on with the files and settings of that run, or start a new run from its weights",
            )
        self._epoch, self._batch = state["epoch"], state["batch"]
