"""Batches of rows in an order that is a pure function of the seed and the epoch.

An epoch is cut into windows of a few thousand rows of its order, and each window is packed by itself. So a batch can be
had without those before it: nothing is kept of an epoch but where it stands, a few integers are enough to go on
after a stop, and the number of steps can be promised, for no row is lost or repeated. A thread packs the next batches
while one is trained on; it takes them one after the other, so that it cannot change their order.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thinkling.core.errors import ConfigError, RunError
from thinkling.core.language import tr
from thinkling.core.rng import generator, seed_from
from thinkling.data.batch import Batch, joined
from thinkling.data.mixture import BLOCK, Epoch, Mixture, Share, Source
from thinkling.data.packing import fewest_batches, packed
from thinkling.data.tokens import TokenFile, TokenRow, stored

WINDOW_ROWS = 4096
"""Rows that are packed together, at least: a window of them is planned in some hundredths of a second."""
WINDOW_BATCHES = 64
"""Batches of a window, at least: what its last one lacks is then under a hundredth."""
AHEAD = 2
"""Batches that are packed before they are asked for."""
WALKED_EPOCHS = 100
"""Epochs whose batches are counted to tell how many epochs so many steps are; further ones are taken to be alike."""


@dataclass(frozen=True)
class Place:
    """Where the next batch stands."""

    epoch: int = 0
    window: int = 0
    batch: int = 0
    """Within the window."""


@dataclass(frozen=True)
class _Step:
    """One batch, and what the loader knows once it has been handed out."""

    batch: Batch
    after: Place
    tokens: NDArray[np.int64]
    """(sources,) tokens of each."""


class Loader:
    """Endless epochs over rows, one packed `Batch` a step. State: the place of the next batch."""

    def __init__(
        self,
        rows: Mixture | TokenFile | Sequence[TokenRow],
        *,
        batch_tokens: int | None = None,
        batch_rows: int | None = None,
        seed: int = 0,
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
        self.rows = _mixture(rows)
        assert len(self.rows), "prepare() refuses empty data"
        self.batch_tokens, self.batch_rows, self.seed = batch_tokens, batch_rows, seed
        self._next = Place()
        self._tokens = np.zeros(len(self.rows.sources), dtype=np.int64)
        self._counted: dict[int, int] = {}
        self._data = seed_from("loader", self.rows.digest, batch_tokens, batch_rows, seed)

    # the plan -----------------------------------------------------------------------------------------------------

    def plan(self, epoch: int) -> Iterator[list[int]]:
        """Row numbers of each batch of an epoch, in order, window by window."""
        order = self._epoch(epoch)
        for window in range(self._n_windows(order)):
            yield from self._window(order, epoch, window)

    def _epoch(self, epoch: int) -> Epoch:
        return Epoch(self.rows, self.seed, epoch)

    def _n_windows(self, order: Epoch) -> int:
        if self.batch_rows is not None:
            return math.ceil(len(order) / self.batch_rows)
        assert self.batch_tokens is not None
        mean = sum(source.rows.n_tokens for source in self.rows.sources) / len(self.rows)
        return math.ceil(len(order) / max(WINDOW_ROWS, WINDOW_BATCHES * self.batch_tokens / mean))

    def _in_window(self, order: Epoch, window: int) -> NDArray[np.int64]:
        """The rows of a window; windows differ by one row at most."""
        n = self._n_windows(order)
        return order.rows(len(order) * window // n, len(order) * (window + 1) // n)

    def _window(self, order: Epoch, epoch: int, window: int) -> list[list[int]]:
        """The batches of a window. Of so many rows each, it is one batch; of tokens, they come in a random order."""
        rows = self._in_window(order, window)
        if self.batch_tokens is None:
            return [rows.tolist()]
        batches = packed(self.rows.lengths(rows).tolist(), self.batch_tokens)
        generator("order of batches", self.seed, epoch, window).shuffle(batches)
        return [rows[batch].tolist() for batch in batches]

    def n_batches(self, epochs: int) -> int:
        """Batches of the first `epochs` epochs, exactly."""
        return sum(map(self._count, range(epochs)))

    def _count(self, epoch: int) -> int:
        if epoch not in self._counted:
            order, budget = self._epoch(epoch), self.batch_tokens
            windows = range(self._n_windows(order))
            self._counted[epoch] = (
                len(windows)
                if budget is None
                else sum(
                    fewest_batches(self.rows.lengths(self._in_window(order, one)).tolist(), budget) for one in windows
                )
            )
        return self._counted[epoch]

    def steps_in(self, epochs: float) -> int:
        """Batches of so many epochs: whole epochs exactly, the rest in proportion; 1 at least."""
        whole = int(epochs)
        rest = round((epochs - whole) * self._count(whole)) if epochs > whole else 0
        return max(1, self.n_batches(whole) + rest)

    def epochs_in(self, steps: int) -> float:
        """How many epochs so many batches are."""
        left, epoch = steps, 0
        while epoch < WALKED_EPOCHS and left >= self._count(epoch):
            left -= self._count(epoch)
            epoch += 1
        return epoch + left / self._count(epoch)

    def shares(self, steps: int) -> list[Share]:
        """What each source gives to so many steps: exact for whole epochs, the rest in proportion."""
        epochs = self.epochs_in(steps)
        whole = min(int(epochs), WALKED_EPOCHS)
        given = [Share()] * len(self.rows.sources)
        for epoch in range(whole):
            given = [before + now for before, now in zip(given, self._epoch(epoch).shares(), strict=True)]
        if epochs == whole:
            return given
        last = self._epoch(whole).shares()
        return [before + now * (epochs - whole) for before, now in zip(given, last, strict=True)]

    def fill(self) -> float:
        """How full the batches of the first epoch are, 0 to 1: its tokens over their number and budget."""
        if self.batch_tokens is None:
            return 1.0
        tokens = sum(share.tokens for share in self._epoch(0).shares())
        return tokens / (self._count(0) * self.batch_tokens)

    def largest(self) -> int:
        """Tokens of the largest batch of the first epoch; where batches have a budget, no batch has more than this."""
        if self.batch_tokens is None:
            order = self._epoch(0)
            together = max(1, BLOCK // (self.batch_rows or 1))
            return max(self._largest_of(order, low, together) for low in range(0, self._n_windows(order), together))
        tokens = sum(source.rows.n_tokens * math.ceil(source.weight) for source in self.rows.sources)
        return min(tokens, max(self.batch_tokens, self.rows.longest))

    def _largest_of(self, order: Epoch, low: int, together: int) -> int:
        """Of `together` batches of so many rows, from number `low` on."""
        n = self._n_windows(order)
        starts = [len(order) * batch // n for batch in range(low, min(low + together, n) + 1)]
        lengths = self.rows.lengths(order.rows(starts[0], starts[-1]))
        return int(np.add.reduceat(lengths, np.array(starts[:-1]) - starts[0]).max())

    # the batches --------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Batch]:
        """Batches from the cursor on, without end. When one is handed out the cursor already stands on the next."""
        steps = self._steps()
        with ThreadPoolExecutor(1, thread_name_prefix="packing") as thread:
            ready: deque[Future[_Step]] = deque()
            try:
                while True:
                    while len(ready) <= AHEAD:
                        ready.append(thread.submit(next, steps))
                    step = ready.popleft().result()
                    self._next = step.after
                    self._tokens = self._tokens + step.tokens
                    yield step.batch
            finally:
                thread.shutdown(cancel_futures=True)

    def _steps(self) -> Iterator[_Step]:
        at = self._next
        while True:
            order = self._epoch(at.epoch)
            n_windows = self._n_windows(order)
            batches = self._window(order, at.epoch, at.window)
            for number in range(at.batch, len(batches)):
                if number + 1 < len(batches):
                    after = Place(at.epoch, at.window, number + 1)
                else:
                    after = Place(at.epoch, at.window + 1) if at.window + 1 < n_windows else Place(at.epoch + 1)
                yield self._step(batches[number], after)
            at = after

    def _step(self, chosen: Sequence[int], after: Place) -> _Step:
        rows = np.array(chosen, dtype=np.int64)
        tokens = np.zeros(len(self.rows.sources), dtype=np.int64)
        np.add.at(tokens, self.rows.sources_of(rows), self.rows.lengths(rows))
        return _Step(self.packed(chosen), after, tokens)

    def epochs(self, epochs: int) -> Iterator[Batch]:
        """Batches from the cursor to the end of epoch `epochs` (counted from 1)."""
        batches = iter(self)
        while self._next.epoch < epochs:
            yield next(batches)

    def packed(self, chosen: Sequence[int]) -> Batch:
        """These rows as one stream."""
        rows = [self.rows.row(row) for row in chosen]
        return joined(
            np.concatenate([tokens for tokens, _, _ in rows]),
            np.concatenate([weights for _, weights, _ in rows]),
            np.array([len(tokens) for tokens, _, _ in rows], dtype=np.int64),
            sources=[source for _, _, source in rows],
        )

    def metrics(self) -> dict[str, float]:
        """Tokens that each source has given so far, where there are several; they are numbered as in plan.json."""
        if len(self._tokens) < 2:
            return {}
        return {f"source_{number}/tokens": float(given) for number, given in enumerate(self._tokens, 1)}

    # the cursor ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The cursor, for a checkpoint: plain integers."""
        at = self._next
        given = [int(tokens) for tokens in self._tokens]
        return {"epoch": at.epoch, "window": at.window, "batch": at.batch, "tokens": given, "data": self._data}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            RunError: It was taken over other rows, another batch size or another seed.
        """
        if state["data"] != self._data:
            raise RunError(
                tr("the checkpoint was made with other data, another batch size or another seed"),
                where=tr("it stands at epoch {epoch}, batch {batch}", epoch=state["epoch"], batch=state["batch"]),
                fix=tr("go on with the files and settings of that run, or start a new run from its weights"),
            )
        self._next = Place(state["epoch"], state["window"], state["batch"])
        self._tokens = np.array(state["tokens"], dtype=np.int64)


def _mixture(rows: Mixture | TokenFile | Sequence[TokenRow]) -> Mixture:
    if isinstance(rows, Mixture):
        return rows
    return Mixture([Source(rows if isinstance(rows, TokenFile) else stored(rows))])
