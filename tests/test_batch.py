"""The packed stream: packing and splitting lose nothing, keep groups whole and change no position."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinkling.data.batch import Batch, pack

rows = st.lists(
    st.lists(st.tuples(st.integers(0, 999), st.sampled_from([0.0, 0.5, 1.0])), min_size=1, max_size=8),
    min_size=1,
    max_size=8,
)


def packed(drawn: list[list[tuple[int, float]]], groups: list[int] | None = None) -> Batch:
    return pack([[t for t, _ in row] for row in drawn], [[w for _, w in row] for row in drawn], groups=groups)


def with_columns(batch: Batch) -> Batch:
    """Columns that name their place, so that a wrong place shows."""
    places = torch.arange(batch.n_tokens, dtype=torch.float32)
    batch.columns["place"] = places
    batch.columns["pair"] = torch.stack([places, -places], dim=1)  # (N, 2)
    return batch


def same(a: Batch, b: Batch) -> bool:
    tensors = ["tokens", "positions", "loss_weights", "starts"]
    return (
        all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)
        and (a.groups, a.sources, a.columns.keys()) == (b.groups, b.sources, b.columns.keys())
        and all(torch.equal(a.columns[name], b.columns[name]) for name in a.columns)
    )


@given(rows)
def test_pack_then_segments_is_the_identity(drawn: list[list[tuple[int, float]]]):
    batch = packed(drawn)
    for number, row in enumerate(drawn):
        one = batch.segments(number, number + 1)
        assert one.tokens.tolist() == [token for token, _ in row]
        assert one.loss_weights.tolist() == [0.0, *(weight for _, weight in row[1:])]
        assert one.positions.tolist() == list(range(len(row)))
        assert one.starts.tolist() == [0, len(row)]
        assert one.sources == (f"row {number}",)


@given(rows)
def test_lengths_add_up_and_all_segments_are_the_batch(drawn: list[list[tuple[int, float]]]):
    batch = with_columns(packed(drawn))
    assert batch.lengths == [len(row) for row in drawn]
    assert sum(batch.lengths) == batch.n_tokens
    assert same(batch.segments(0, batch.n_segments), batch)


@given(rows, st.integers(1, 20), st.data())
def test_splitting_keeps_every_token_in_order_and_every_group_whole(
    drawn: list[list[tuple[int, float]]], max_tokens: int, data: st.DataObject
):
    starts_group = data.draw(st.lists(st.booleans(), min_size=len(drawn), max_size=len(drawn)))
    groups = [sum(starts_group[: i + 1]) for i in range(len(drawn))]  # neighbours share a group or open the next
    batch = with_columns(packed(drawn, groups))
    parts = batch.split(max_tokens)
    for name in ("tokens", "positions", "loss_weights"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    for name, column in batch.columns.items():
        assert torch.equal(torch.cat([part.columns[name] for part in parts]), column)
    assert sum((part.sources for part in parts), ()) == batch.sources
    assert sum((part.groups for part in parts), ()) == batch.groups
    seen = [set(part.groups) for part in parts]
    assert sum(map(len, seen)) == len(set().union(*seen))  # no group in two parts
    assert all(part.n_tokens <= max_tokens or len(set(part.groups)) == 1 for part in parts)


@given(rows, st.integers(1, 20))
def test_splitting_opens_no_part_that_the_one_before_had_room_for(
    drawn: list[list[tuple[int, float]]], max_tokens: int
):
    parts = packed(drawn).split(max_tokens)
    for before, after in itertools.pairwise(parts):
        assert before.n_tokens + after.lengths[0] > max_tokens


@given(rows, st.integers(1, 20))
def test_the_parts_weigh_together_what_the_batch_weighs(drawn: list[list[tuple[int, float]]], max_tokens: int):
    batch = packed(drawn)
    weight = sum(float(part.loss_weights.sum()) for part in batch.split(max_tokens))
    assert weight == float(batch.loss_weights.sum())  # halves and ones: exact in float32
    assert sum(len(part.targets()) for part in batch.split(max_tokens)) == len(batch.targets())


@given(rows)
def test_the_supervised_tokens_are_those_that_weigh_with_their_columns(drawn: list[list[tuple[int, float]]]):
    batch = with_columns(packed(drawn))
    counted = batch.supervised()
    assert bool((counted.loss_weights > 0).all())
    assert float(counted.loss_weights.sum()) == float(batch.loss_weights.sum())
    places = counted.columns["place"].long()
    assert torch.equal(batch.tokens[places], counted.tokens)
    assert torch.equal(places, batch.targets())


@given(rows)
def test_nothing_predicts_the_first_token_of_a_segment(drawn: list[list[tuple[int, float]]]):
    batch = packed(drawn)
    assert not set(batch.targets().tolist()) & set(batch.starts[:-1].tolist())


@given(rows, st.data())
def test_rows_of_the_stream_are_the_stream_between_two_places(
    drawn: list[list[tuple[int, float]]], data: st.DataObject
):
    batch = with_columns(packed(drawn))
    low = data.draw(st.integers(0, batch.n_tokens - 1))
    high = data.draw(st.integers(low + 1, batch.n_tokens))
    part = batch.rows(low, high)
    assert torch.equal(part.tokens, batch.tokens[low:high])
    assert part.columns["place"].tolist() == list(map(float, range(low, high)))
    assert part.lengths == [high - low]


@pytest.mark.parametrize(("tokens", "weights"), [([[1], []], [[1.0], []]), ([[1, 2]], [[1.0]]), ([[1]], [])])
def test_an_empty_row_or_weights_that_do_not_fit_are_a_bug_of_ours(tokens: list[list[int]], weights: list[list[float]]):
    with pytest.raises(AssertionError):
        pack(tokens, weights)
