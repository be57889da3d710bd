"""The loader: every row once an epoch, in an order that only seed and epoch decide, from any cursor on."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkling.core.errors import ConfigError, RunError
from thinkling.data import loader as loader_module
from thinkling.data.batch import Batch
from thinkling.data.loader import Loader
from thinkling.data.tokens import TokenRow

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
    plan = list(Loader(rows_of(lengths), **size, seed=3).plan(epoch))
    assert sorted(itertools.chain.from_iterable(plan)) == list(range(len(lengths)))
    assert all(plan)


@given(lengths, st.integers(1, 60))
def test_a_batch_keeps_its_token_budget_unless_one_row_alone_is_larger(lengths: list[int], batch_tokens: int):
    for chosen in Loader(rows_of(lengths), batch_tokens=batch_tokens).plan(0):
        assert len(chosen) == 1 or sum(lengths[row] for row in chosen) <= batch_tokens


@given(st.integers(1, 200), st.integers(1, 50))
def test_batches_of_rows_differ_by_one_row_at_most(n_rows: int, batch_rows: int):
    counts = [len(batch) for batch in Loader(rows_of([1] * n_rows), batch_rows=batch_rows).plan(0)]
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
    def order(seed: int, epoch: int, **size: int) -> tuple[int, ...]:
        plan = Loader(rows_of([1] * 50), **(size or {"batch_rows": 7}), seed=seed).plan(epoch)
        return tuple(itertools.chain.from_iterable(plan))

    assert order(0, 0) == order(0, 0) == order(0, 0, batch_rows=3)
    assert len({order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)}) == 4


@given(lengths, st.integers(1, 60), st.integers(1, 12))
def test_windows_change_neither_the_laws_of_an_epoch_nor_the_promise(lengths: list[int], batch_tokens: int, rows: int):
    # Windows of a few rows, so that an epoch has many.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loader_module, "WINDOW_ROWS", rows)
        patch.setattr(loader_module, "WINDOW_BATCHES", 1)
        loader = Loader(rows_of(lengths), batch_tokens=batch_tokens)
        plan = list(loader.plan(0))
        whole = contents(list(itertools.islice(loader, 2 * len(plan))))
        again = Loader(rows_of(lengths), batch_tokens=batch_tokens)
        before = contents(list(itertools.islice(again, len(plan) // 2)))
        last = Loader(rows_of(lengths), batch_tokens=batch_tokens)
        last.restore(again.state())
        after = contents(list(itertools.islice(last, 2 * len(plan) - len(before))))
        promised = loader.n_batches(1)
    assert sorted(itertools.chain.from_iterable(plan)) == list(range(len(lengths)))
    assert promised == len(plan)
    assert before + after == whole


@given(lengths, sizes, st.floats(0.1, 4))
def test_steps_and_epochs_say_the_same(lengths: list[int], size: dict[str, int], epochs: float):
    loader = Loader(rows_of(lengths), **size, seed=2)
    steps = loader.steps_in(epochs)
    # Half a step is what rounding may take from or add to a part of an epoch, and one step is the least.
    assert abs(loader.epochs_in(steps) - epochs) <= 1 / min(
        loader.n_batches(e + 1) - loader.n_batches(e) for e in range(5)
    )
    assert loader.epochs_in(loader.n_batches(3)) == 3


@given(lengths, sizes)
def test_no_batch_is_larger_than_was_said(lengths: list[int], size: dict[str, int]):
    loader = Loader(rows_of(lengths), **size)
    largest = max(sum(lengths[row] for row in batch) for batch in loader.plan(0))
    assert largest <= loader.largest()
    assert loader.largest() == largest or loader.batch_rows is None


def test_the_fill_is_what_the_batches_have_of_their_budget():
    assert Loader(rows_of([5] * 6), batch_tokens=10).fill() == 1.0
    assert Loader(rows_of([6, 6]), batch_tokens=10).fill() == 0.6


def test_an_error_of_the_packing_thread_comes_out_of_the_loop():
    loader = Loader(rows_of([3, 4]), batch_rows=1)
    loader.packed = lambda chosen: 1 / 0
    with pytest.raises(ZeroDivisionError):
        next(iter(loader))


def test_a_loader_that_is_left_leaves_no_thread_behind():
    before = threading.active_count()
    batches = iter(Loader(rows_of([3, 4]), batch_rows=1))
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


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


THREADS = """
import os, sys, torch
from thinkling.data.loader import Loader
from thinkling.data.tokens import TokenRow

torch.set_num_threads(2)
torch.ones(2**20).add_(1)  # this thread's own team
before = len(os.listdir("/proc/self/task"))
batches = iter(Loader([TokenRow([1] * 300, [1.0] * 300, "row")] * 64, batch_rows=32, seed=0))
for _ in range(4):
    next(batches)
print(len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_packing_starts_no_second_team_of_openmp_threads():
    """It would make every barrier of the training sleep: see data/batch.py, `joined`."""
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"  # the thread that packs, and no worker of it
