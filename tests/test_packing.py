"""Packing by a budget of tokens, and the order that is computed instead of kept."""

from __future__ import annotations

import itertools
import random
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkling.data.order import Permutation
from thinkling.data.packing import _next_fit, fewest_batches, packed

lengths = st.lists(st.integers(1, 30), min_size=1, max_size=40)


@given(lengths, st.integers(1, 80))
def test_every_row_is_in_one_batch_and_no_batch_is_over_the_budget_unless_a_row_alone_is(
    lengths: list[int], budget: int
):
    batches = packed(lengths, budget)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(len(lengths)))
    assert all(len(batch) == 1 or sum(lengths[row] for row in batch) <= budget for batch in batches)
    assert all(batch == sorted(batch) for batch in batches)


@given(lengths, st.integers(1, 80))
def test_there_are_as_many_batches_as_were_promised_and_no_more_than_filling_in_order_makes(
    lengths: list[int], budget: int
):
    assert len(packed(lengths, budget)) == fewest_batches(lengths, budget) <= len(_next_fit(lengths, budget))


def test_rows_that_fit_together_are_put_together_whatever_their_order():
    # In order, 6 + 4 never meet: 6, 6, 6, 4 + 4, 4.
    assert fewest_batches([6, 6, 6, 4, 4, 4], 10) == 3


def test_a_batch_is_a_sample_of_all_lengths():
    # About 40 rows of 1 to 30 tokens a batch. The standard deviation of a row's length is 8.7, of the mean of 40 drawn
    # at random 8.7 / sqrt(40) = 1.4; of batches sorted by length it would be that of the rows.
    drawn = random.Random(0)
    lengths = [drawn.randint(1, 30) for _ in range(4000)]
    batches = packed(lengths, 620)
    means = [sum(lengths[row] for row in batch) / len(batch) for batch in batches]
    assert len(batches) == -(-sum(lengths) // 620)
    assert statistics.stdev(means) < 2 * 1.4


def test_batches_are_no_fuller_than_their_number_asks_for():
    # nine rows of 10 at 40 a batch: 4 + 4 + 1 when filled, 3 + 3 + 3 when even
    assert sorted(map(len, packed([10] * 9, 40))) == [3, 3, 3]


@given(st.integers(0, 9000), st.integers())
def test_a_permutation_has_every_number_once(n: int, seed: int):
    assert sorted(Permutation(n, seed)[np.arange(n)].tolist()) == list(range(n))


@given(st.integers(1, 2**40), st.lists(st.integers(0, 2**40), max_size=8), st.integers())
def test_a_place_of_a_permutation_can_be_asked_alone(n: int, places: list[int], seed: int):
    order = Permutation(n, seed)
    asked = np.array([place % n for place in places], dtype=np.int64)
    together = order[asked]
    assert [int(order[np.array([place])][0]) for place in asked] == together.tolist()
    assert all(0 <= number < n for number in together)
    assert len(set(together.tolist())) == len(set(asked.tolist()))


def test_every_number_is_equally_likely_at_every_place():
    # 2,000 orders of 5: each of the 25 pairs of place and number is expected 400 times; chi-squared with 16 degrees of
    # freedom is above 39.25 once in a thousand. The keys are fixed, so the outcome is too.
    counts = np.zeros((5, 5))
    for key in range(2000):
        counts[np.arange(5), Permutation(5, key)[np.arange(5)]] += 1
    assert ((counts - 400) ** 2 / 400).sum() < 39.25


def test_all_orders_of_few_rows_occur():
    orders = {tuple(Permutation(4, key)[np.arange(4)].tolist()) for key in range(1000)}
    assert len(orders) == 24


@pytest.mark.parametrize("n", [4097, 6000, 16385, 70_000, 2**32 + 1])
def test_a_place_of_a_large_permutation_is_found_in_a_few_steps(n: int, monkeypatch: pytest.MonkeyPatch):
    # The domain has at most four times n numbers: of 64 places each is inside after 4 steps on the average, and none
    # needs 100 but with a probability of 64 * (3/4)^100 < 1e-10.
    steps, once = [], Permutation._once
    monkeypatch.setattr(Permutation, "_once", lambda self, numbers: steps.append(len(numbers)) or once(self, numbers))
    Permutation(n, "key")[np.arange(64)]
    assert len(steps) < 100
