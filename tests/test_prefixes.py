"""Common beginnings computed once: the tree says what the rows said, and a training step cannot tell the difference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinkling.data.batch import Batch, pack
from thinkling.data.prefixes import share
from thinkling.model.attend import PackedAttend

BEGINNINGS = [list(range(20)), [*range(12), 50, 51, 52, 53, 54, 55, 56, 57, 58], [99], []]
"""Two that agree for 12 tokens, one short, none."""


@st.composite
def streams(draw) -> Batch:
    """Rows that begin alike in part; weights start anywhere, also inside the beginning."""
    tokens, weights = [], []
    for _ in range(draw(st.integers(1, 8))):
        beginning = draw(st.sampled_from(BEGINNINGS))
        row = [*beginning, *draw(st.lists(st.integers(0, 3), min_size=1, max_size=6))]
        first = draw(st.one_of(st.just(len(beginning)), st.integers(0, len(row))))
        tokens.append(row)
        weights.append([0.0] * first + [draw(st.sampled_from([0.0, 0.5, 1.0])) for _ in row[first:]])
    return pack(tokens, weights)


def chain(batch: Batch, s: int) -> list[int]:
    """Places of all tokens that segment s sees, in order."""
    prefix = batch.prefixes[s] if batch.prefixes else -1
    return (chain(batch, prefix) if prefix >= 0 else []) + list(range(int(batch.starts[s]), int(batch.starts[s + 1])))


def leaves(batch: Batch) -> list[int]:
    """Segments that nothing continues: the ends of the rows."""
    return [s for s in range(batch.n_segments) if s not in batch.prefixes]


def read(batch: Batch, places: list[int]) -> list[tuple[int, int, float]]:
    """(token, position, weight) at these places."""
    columns = (batch.tokens[places], batch.positions[places], batch.loss_weights[places])
    return list(zip(*(column.tolist() for column in columns), strict=True))


@given(streams())
def test_every_row_can_be_read_back_from_the_tree(batch: Batch):
    shared = share(batch)
    assert sorted(read(shared, chain(shared, s)) for s in leaves(shared)) == sorted(
        read(batch, chain(batch, s)) for s in range(batch.n_segments)
    )


@given(streams())
def test_each_target_keeps_its_weight_and_all_that_predicts_it(batch: Batch):
    def predictions(stream: Batch):
        where = {place: s for s in range(stream.n_segments) for place in range(*stream.starts[s : s + 2].tolist())}
        for target, predictor in zip(stream.targets().tolist(), stream.predictors().tolist(), strict=True):
            seen = chain(stream, where[target])
            assert seen[seen.index(target) - 1] == predictor
            context = stream.tokens[seen[: seen.index(target)]].tolist()
            yield context, int(stream.tokens[target]), float(stream.loss_weights[target])

    assert sorted(predictions(share(batch))) == sorted(predictions(batch))


def test_beginnings_within_beginnings_are_shared_at_each_depth():
    system, first, second = list(range(100, 112)), list(range(200, 210)), list(range(300, 310))
    rows = [system + part + [end] for part in (first, second) for end in (1, 2)]
    shared = share(pack(rows, [[0.0] * 22 + [1.0]] * 4))
    assert shared.n_tokens == 12 + 10 + 10 + 4
    assert [shared.tokens[chain(shared, s)].tolist() for s in leaves(shared)] == rows
    assert sorted(shared.lengths) == [1, 1, 1, 1, 10, 10, 12]


def test_columns_go_with_their_tokens_and_a_prompt_is_laid_down_once():
    prompt, answers = list(range(10, 30)), [[1, 2], [3], [4, 5, 6]]
    batch = pack([prompt + a for a in answers], [[0.0] * 20 + [1.0] * len(a) for a in answers])
    batch.columns["old_logprobs"] = torch.arange(batch.n_tokens, dtype=torch.float32)
    shared = share(batch)
    assert shared.n_tokens == 20 + 6
    assert shared.prefixes == (-1, 0, 0, 0)
    targets = {int(t): float(c) for t, c in zip(shared.tokens, shared.columns["old_logprobs"], strict=True) if t < 10}
    assert targets == {1: 20.0, 2: 21.0, 3: 42.0, 4: 63.0, 5: 64.0, 6: 65.0}  # places in the stream before
    assert shared.predictors().tolist() == [19, 20, 19, 19, 23, 24]  # the first token of each by the prompt's last


def test_rows_without_a_common_beginning_stay_as_they_are():
    batch = pack([[1, 2, 3], [4, 5, 6]], [[0.0, 1.0, 1.0]] * 2)
    assert share(batch) is batch


def test_a_counted_token_is_never_shared():
    batch = pack([list(range(30))] * 2, [[0.0] * 3 + [1.0] * 27] * 2)
    assert share(batch) is batch  # the three that could be are not worth a segment


@pytest.mark.parametrize("way", ["products", "sdpa"])
def test_hidden_states_of_the_tree_are_those_of_the_rows(tiny_model, way):
    prompt = list(range(40, 60))
    batch = pack([[*prompt, 1, 2, 3], [*prompt, 4], [7] * 9], [[0.0] * 21 + [1.0] * 2, [0.0] * 20 + [1.0], [1.0] * 9])
    shared = share(batch)
    wanted = tiny_model(batch.tokens, batch.positions, PackedAttend(batch.starts, way="sdpa"))[batch.predictors()]
    given = tiny_model(shared.tokens, shared.positions, PackedAttend(shared.starts, shared.prefixes, way=way))
    given = given[shared.predictors()]
    order = [shared.tokens[shared.targets()].tolist().index(int(t)) for t in batch.tokens[batch.targets()]]
    torch.testing.assert_close(given[order][:3], wanted[:3], rtol=1e-4, atol=1e-5)
