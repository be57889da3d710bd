"""The loader: every row once an epoch, in an order that only seed and epoch decide, from any cursor on."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkling.core.errors import ConfigError, RunError
from thinkling.data.batch import Batch
from thinkling.data.loader import Loader, by_rows, by_tokens, epoch_order
from thinkling.data.prepare import TokenRow

lengths = st.lists(st.integers(1, 30), min_size=1, max_size=25)
sizes = st.one_of(
    st.builds(lambda n: {"batch_tokens": n}, st.integers(1, 60)),
    st.builds(lambda n: {"batch_rows": n}, st.integers(1, 30)),
)


def rows_of(lengths: list[int]) -> list[TokenRow]:
    return [TokenRow([i] * n, [1.0] * n, f"row {i}") for i, n in enumerate(lengths)]


def contents(batches: list[Batch]) -> list[tuple[list[int], tuple[str, ...]]]:
    return [(batch.tokens.tolist(), batch.sources) for batch in batches]


@given(lengths, sizes, st.integers(0, 5))
def test_every_epoch_has_every_row_once(lengths: list[int], size: dict[str, int], epoch: int):
    plan = Loader(rows_of(lengths), **size, seed=3).plan(epoch)
    assert sorted(itertools.chain.from_iterable(plan)) == list(range(len(lengths)))
    assert all(plan)


@given(lengths, st.integers(1, 60))
def test_a_batch_keeps_its_token_budget_unless_one_row_alone_is_larger(lengths: list[int], batch_tokens: int):
    for chosen in Loader(rows_of(lengths), batch_tokens=batch_tokens).plan(0):
        assert len(chosen) == 1 or sum(lengths[row] for row in chosen) <= batch_tokens


@given(lengths, st.integers(1, 60))
def test_emptier_batches_are_as_few_as_full_ones(lengths: list[int], batch_tokens: int):
    full, tokens = 0, batch_tokens + 1
    for length in lengths:  # the plain way: fill a batch, open the next
        if tokens + length > batch_tokens:
            full, tokens = full + 1, 0
        tokens += length
    assert len(by_tokens(lengths, batch_tokens)) == full


def test_batches_are_no_fuller_than_their_number_asks_for():
    # ten rows of 10 tokens at 40 a batch: three batches at 30 a batch would leave one row over
    assert by_tokens([10] * 10, 40) == [4, 4, 2]
    # nine rows: 4 + 4 + 1 when filled, 3 + 3 + 3 when even
    assert by_tokens([10] * 9, 40) == [3, 3, 3]
    assert by_rows(10, 4) == [3, 3, 4]


@given(st.integers(1, 200), st.integers(1, 50))
def test_batches_of_rows_differ_by_one_row_at_most(n_rows: int, batch_rows: int):
    counts = by_rows(n_rows, batch_rows)
    assert sum(counts) == n_rows
    assert max(counts) <= batch_rows
    assert max(counts) - min(counts) <= 1


@given(lengths, sizes, st.integers(0, 40))
def test_stopping_and_resuming_gives_the_batches_of_never_stopping(lengths: list[int], size: dict[str, int], stop: int):
    whole = contents(list(itertools.islice(Loader(rows_of(lengths), **size, seed=1), stop + 5)))
    first = Loader(rows_of(lengths), **size, seed=1)
    before = contents(list(itertools.islice(first, stop)))
    second = Loader(rows_of(lengths), **size, seed=1)
    second.restore(first.state())
    assert before + contents(list(itertools.islice(second, 5))) == whole


@given(lengths, sizes, st.integers(1, 4))
def test_the_promised_number_of_batches_is_the_number_that_comes(lengths: list[int], size: dict[str, int], epochs: int):
    loader = Loader(rows_of(lengths), **size, seed=2)
    promised = loader.n_batches(epochs)
    assert promised == len(list(loader.epochs(epochs)))
    assert loader.state()["epoch"] == epochs


def test_the_order_depends_on_seed_and_epoch_and_nothing_else():
    assert epoch_order(50, 0, 0) == epoch_order(50, 0, 0)
    assert len({tuple(epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_rows_are_packed_with_their_weights_and_sources():
    loader = Loader([TokenRow([5, 6, 7], [0.0, 0.0, 1.0], "row a")], batch_rows=1)
    batch = next(iter(loader))
    assert batch.tokens.tolist() == [5, 6, 7]
    assert batch.loss_weights.tolist() == [0.0, 0.0, 1.0]
    assert batch.sources == ("row a",)


@pytest.mark.parametrize("change", ["rows", "seed", "size"])
def test_a_cursor_of_other_data_is_refused(change: str):
    state = Loader(rows_of([3, 4, 5]), batch_tokens=8, seed=0).state()
    other = Loader(
        rows_of([3, 4, 6] if change == "rows" else [3, 4, 5]),
        batch_tokens=9 if change == "size" else 8,
        seed=1 if change == "seed" else 0,
    )
    with pytest.raises(RunError, match="other data"):
        other.restore(state)


@pytest.mark.parametrize("size", [{}, {"batch_tokens": 4, "batch_rows": 4}, {"batch_rows": 0}, {"batch_tokens": -1}])
def test_a_step_has_exactly_one_size(size: dict[str, int]):
    with pytest.raises(ConfigError, match="one size"):
        Loader(rows_of([3]), **size)
