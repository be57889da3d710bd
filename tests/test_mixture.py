"""Mixtures: a weight is how often each row comes in an epoch, exactly, and what each source gives is counted."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkling.core.errors import ConfigError
from thinkling.data.loader import Loader
from thinkling.data.mixture import Epoch, Mixture, Share, Source
from thinkling.data.tokens import TokenRow, stored

WEIGHTS = st.sampled_from([Fraction(1), Fraction(2), Fraction(1, 3), Fraction("0.3"), Fraction("2.5")])


def mixture_of(sizes: list[int], weights: list[Fraction]) -> Mixture:
    files = [
        stored([TokenRow([n] * (1 + n % 4), [1.0] * (1 + n % 4), f"{number}:{n}") for n in range(size)])
        for number, size in enumerate(sizes)
    ]
    return Mixture([Source(rows, str(n), w) for n, (rows, w) in enumerate(zip(files, weights, strict=True))])


mixtures = st.lists(st.tuples(st.integers(4, 20), WEIGHTS), min_size=1, max_size=4).map(
    lambda pairs: mixture_of([size for size, _ in pairs], [weight for _, weight in pairs])
)


def drawn(mixture: Mixture, epoch: int, seed: int = 0) -> list[int]:
    order = Epoch(mixture, seed, epoch)
    return order.rows(0, len(order)).tolist()


@given(mixtures, st.integers(1, 7))
def test_after_any_epochs_every_row_has_come_as_often_as_its_weight_says_within_one(mixture: Mixture, epochs: int):
    times = Counter(itertools.chain.from_iterable(drawn(mixture, epoch) for epoch in range(epochs)))
    for row in range(len(mixture)):
        weight = mixture.sources[int(mixture.sources_of(np.array([row]))[0])].weight
        assert math.floor(epochs * weight) <= times[row] <= math.ceil(epochs * weight)


@given(mixtures, st.integers(0, 5), st.data())
def test_any_part_of_an_epoch_can_be_asked_alone(mixture: Mixture, epoch: int, data: st.DataObject):
    whole = drawn(mixture, epoch)
    low = data.draw(st.integers(0, len(whole)))
    high = data.draw(st.integers(low, len(whole)))
    assert Epoch(mixture, 0, epoch).rows(low, high).tolist() == whole[low:high]


@given(mixtures, st.integers(0, 5))
def test_the_shares_of_an_epoch_are_what_its_rows_add_up_to(mixture: Mixture, epoch: int):
    found = [Share()] * len(mixture.sources)
    for row in drawn(mixture, epoch):
        one = mixture[row]
        found[int(one.source.split(":")[0])] += Share(1, len(one.tokens), one.n_supervised)
    assert found == Epoch(mixture, 0, epoch).shares()


@given(mixtures, st.integers(1, 3), st.sampled_from([{"batch_tokens": 9}, {"batch_rows": 4}]))
def test_what_each_source_gave_is_what_was_promised(mixture: Mixture, epochs: int, size: dict[str, int]):
    loader = Loader(mixture, **size)
    promised = loader.shares(loader.steps_in(epochs))
    batches = list(loader.epochs(epochs))
    assert len(batches) == loader.n_batches(epochs)
    given_tokens = Counter(
        {n: 0 for n in range(len(mixture.sources))}
        | Counter(
            int(s.split(":")[0]) for b in batches for s, n in zip(b.sources, b.lengths, strict=True) for _ in range(n)
        )
    )
    assert [share.tokens for share in promised] == [given_tokens[n] for n in range(len(mixture.sources))]
    if len(mixture.sources) > 1:
        assert loader.metrics() == {f"source_{n + 1}/tokens": given_tokens[n] for n in range(len(mixture.sources))}


def test_what_each_source_gave_is_kept_by_a_checkpoint():
    mixture = mixture_of([5, 6], [Fraction(1), Fraction(2)])
    loader = Loader(mixture, batch_rows=3)
    list(itertools.islice(loader, 4))
    again = Loader(mixture, batch_rows=3)
    again.restore(loader.state())
    assert again.metrics() == loader.metrics() != Loader(mixture, batch_rows=3).metrics()


def test_another_weight_is_another_training():
    base, other = (mixture_of([5, 6], [Fraction(1), Fraction(weight)]) for weight in (1, 2))
    assert base.digest != other.digest


def test_weights_that_leave_an_epoch_empty_are_refused():
    with pytest.raises(ConfigError, match="no row"):
        mixture_of([5, 6], [Fraction("0.1"), Fraction("0.1")])


def test_sources_come_mixed_and_not_one_after_the_other():
    rows = drawn(mixture_of([200, 200], [Fraction(1), Fraction(1)]), 0)
    first_half = sum(row < 200 for row in rows[:200])
    # 100 are expected, with a standard deviation of sqrt(200 * 1/2 * 1/2 * 200/399) = 5: 30 are six of them.
    assert abs(first_half - 100) < 30


@given(mixtures, st.sampled_from([{"batch_tokens": 9}, {"batch_tokens": 1000}]))
def test_no_batch_of_any_epoch_is_larger_than_was_said(mixture: Mixture, size: dict[str, int]):
    loader = Loader(mixture, **size)
    sizes = [mixture.lengths(np.array(batch)).sum() for epoch in range(4) for batch in loader.plan(epoch)]
    assert max(sizes) <= loader.largest()
