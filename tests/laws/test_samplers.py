"""Laws of every entry of the shelf of samplers: idle settings do nothing, stricter cuts keep fewer, rows are alone."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkling.core import shelf
from thinkling.engine.sampling import CUTS, PENALTIES, Chooser, Sampling, choose, entry_of, token_settings

ENTRIES = shelf.names("samplers")
KINDS = ("scale", "penalize", "keep", "forbids_end")
BY_KIND = {kind: [name for name in token_settings() if hasattr(entry_of(name), kind)] for kind in KINDS}
VALUES = {
    "temperature": st.floats(0.05, 5),
    "top_k": st.integers(1, 60),
    "top_p": st.floats(0.01, 0.999),
    "min_p": st.floats(0.001, 1),
    "repetition_penalty": st.floats(0.2, 3),
    "frequency_penalty": st.floats(-2, 2),
    "presence_penalty": st.floats(-2, 2),
    "min_new_tokens": st.integers(1, 20),
}
"""Settings of each entry that do something."""
NUMBERS = st.lists(st.floats(-20, 20), min_size=2, max_size=50)


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_has_the_interface_of_one_kind(name):
    entry = entry_of(name)
    assert entry.__doc__
    if hasattr(entry, "CHOOSES"):
        assert entry.CHOOSES in ("tokens", "sequences")
        assert hasattr(entry, "machine") == (entry.CHOOSES == "tokens")
        assert not hasattr(entry, "IDLE")
    else:
        assert sum(hasattr(entry, kind) for kind in KINDS) == 1
        assert name in VALUES


def test_every_entry_for_one_token_is_a_setting_whose_default_does_nothing():
    default = {field.name: field.default for field in dataclasses.fields(Sampling)}
    ours = [name for name in ENTRIES if not hasattr(entry_of(name), "CHOOSES")]
    assert list(token_settings()) == ours
    assert {name: default[name] for name in ours} == {name: entry_of(name).IDLE for name in ours}


def test_every_cut_and_penalty_is_carried_out():
    assert sorted(CUTS) == sorted(BY_KIND["keep"])
    assert sorted(PENALTIES) == sorted(BY_KIND["penalize"])


@pytest.mark.parametrize("name", token_settings())
def test_values_out_of_range_are_told_and_those_in_range_are_not(name):
    entry = entry_of(name)
    assert entry.problem(entry.IDLE) is None
    assert entry.problem(-3)
    assert entry.problem(math.nan)


@pytest.mark.parametrize("name", token_settings())
@given(data=st.data())
def test_values_that_do_something_are_allowed(name, data):
    assert entry_of(name).problem(data.draw(VALUES[name])) is None


def falling(numbers):
    weights = torch.tensor(sorted(numbers, reverse=True), dtype=torch.float64)
    return torch.exp(weights - weights[0])[None]  # (1, K)


@pytest.mark.parametrize("name", BY_KIND["keep"])
@given(numbers=NUMBERS, data=st.data())
def test_a_cut_keeps_one_token_at_least_and_none_more_when_it_is_stricter(name, numbers, data):
    weights = falling(numbers)
    total = weights.sum(-1, keepdim=True)
    low, high = sorted([data.draw(VALUES[name]), data.draw(VALUES[name])])
    kept = [int(entry_of(name).keep(weights, total, torch.tensor([[float(v)]]))) for v in (low, high)]
    strict, mild = reversed(kept) if name == "min_p" else kept
    assert 1 <= strict <= mild <= weights.shape[1]


@pytest.mark.parametrize("name", BY_KIND["keep"])
@given(numbers=NUMBERS)
def test_an_idle_cut_keeps_all(name, numbers):
    weights = falling(numbers)
    idle = torch.tensor([[float(entry_of(name).IDLE)]])
    assert int(entry_of(name).keep(weights, weights.sum(-1, keepdim=True), idle)) == weights.shape[1]


@pytest.mark.parametrize("name", BY_KIND["keep"])
@given(numbers=NUMBERS, data=st.data())
def test_a_row_is_cut_the_same_beside_others(name, numbers, data):
    weights, value = falling(numbers), float(data.draw(VALUES[name]))
    others = torch.cat([weights, torch.ones_like(weights), weights])
    values = torch.tensor([[value], [float(entry_of(name).IDLE)], [value]])
    kept = entry_of(name).keep(others, others.sum(-1, keepdim=True), values)
    assert kept[0] == kept[2] == entry_of(name).keep(weights, weights.sum(-1, keepdim=True), values[:1])[0]


@pytest.mark.parametrize("name", BY_KIND["penalize"])
@given(numbers=NUMBERS, data=st.data())
def test_a_penalty_moves_down_what_it_should_and_an_idle_one_nothing(name, numbers, data):
    logits = torch.tensor(numbers)
    counts = torch.tensor(data.draw(st.lists(st.integers(0, 5), min_size=len(numbers), max_size=len(numbers))))
    value = data.draw(VALUES[name])
    idle, moved = (
        entry_of(name).penalize(logits, counts, torch.full_like(logits, v)) for v in (entry_of(name).IDLE, value)
    )
    assert torch.equal(idle, logits)
    assert ((moved <= logits) if value >= entry_of(name).IDLE else (moved >= logits)).all()
    if not entry_of(name).SEES_PROMPT:
        assert torch.equal(moved[counts == 0], logits[counts == 0])


@settings(max_examples=40)
@given(
    st.fixed_dictionaries({}, optional={name: values for name, values in VALUES.items() if name != "min_new_tokens"}),
    st.integers(0, 2**63 - 1),
)
def test_whatever_is_set_together_a_draw_is_a_token_and_the_policy_is_told_unmodified(values, seed):
    if set(values) & set(CUTS):
        values = {"temperature": 1.0, **values}
    sampling = Sampling(**values)
    logits = torch.randn(3, 90, generator=torch.Generator().manual_seed(seed % 2**31)) * 4
    choosers = [Chooser(sampling, seed=seed, prompt=(1, 2, 3), tokens=[4, 5, 5]) for _ in range(3)]
    choice = choose(logits, choosers)
    log_p = torch.log_softmax(logits.double(), -1)
    for i, token in enumerate(choice.tokens):
        assert 0 <= token < 90
        assert choice.logprobs[i] == pytest.approx(float(log_p[i, token]), abs=1e-4)
        assert choice.sampled_logprobs[i] <= 1e-6
        assert choosers[i].tokens == [4, 5, 5, token]
