"""How the next token is chosen: shares follow the distribution, cuts are exact, and no row's draw knows its company."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkling.core.errors import ConfigError
from thinkling.engine.sampling import Chooser, Sampling, _draw, _inverse_cdf, uniform_number


def draws(logits, sampling, n=4000):
    states = [Chooser(sampling, seed=i) for i in range(n)]
    return torch.bincount(_draw(logits.expand(n, -1), states), minlength=logits.shape[0]) / n


def test_sampling_follows_the_distribution():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    for temperature in (0.5, 1.0, 2.0):
        wanted = torch.softmax(logits / temperature, -1)
        given = draws(logits, Sampling(temperature=temperature))
        # 4.5 standard errors of a share of 4000 draws: one chance in 30,000 a number
        assert ((given - wanted).abs() <= 4.5 * (wanted * (1 - wanted) / 4000).sqrt() + 1e-9).all()


def test_top_p_keeps_the_smallest_set_that_reaches_it():
    logits = torch.log(torch.tensor([0.1, 0.5, 0.25, 0.15]))
    given = draws(logits, Sampling(temperature=1.0, top_p=0.7))
    assert given[[0, 3]].tolist() == [0, 0]  # 0.5 + 0.25 reach 0.7
    assert given[1].item() == pytest.approx(2 / 3, abs=0.03)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 1.0), st.integers(0, 2**63 - 1))
def test_top_p_never_draws_a_token_outside_the_set(top_p, seed):
    logits = torch.randn(40, generator=torch.Generator().manual_seed(seed % 2**31))
    p, order = torch.softmax(logits, -1).sort(descending=True)
    allowed = set(order[: int((p.cumsum(0) - p < top_p).sum())].tolist())
    state = Chooser(Sampling(temperature=1.0, top_p=top_p), seed=seed)
    assert int(_draw(logits[None], [state])[0]) in allowed


def test_uniform_numbers_are_uniform_and_streams_differ():
    numbers = torch.tensor(
        [uniform_number(seed, place) for seed in range(60) for place in range(60)], dtype=torch.float64
    )
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=4.5 * math.sqrt(1 / 12 / 3600))
    assert len(set(numbers.tolist())) == 3600


@pytest.mark.parametrize(
    "bad",
    [{"temperature": -1.0}, {"temperature": 1.0, "top_p": 0.0}, {"top_p": 0.5}, {"max_new_tokens": 0}, {"stop": ("",)}],
)
def test_options_that_cannot_be_right_or_have_no_effect_are_refused(bad):
    with pytest.raises(ConfigError):
        Sampling(**bad)


def test_a_token_of_probability_zero_is_never_drawn():
    drawn = _inverse_cdf(
        torch.tensor([[0.0, 1.0, 0.0]]).expand(2, -1), torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    )
    assert drawn.tolist() == [1, 1]


def test_rare_tokens_far_down_the_list_keep_their_chance():
    weights = torch.tensor([1.0] + [1e-8] * 1000)  # 1 + 1e-8 is 1 in fp32
    uniform = torch.tensor([(1 + 500.5e-8) / (1 + 1000e-8)], dtype=torch.float64)
    assert _inverse_cdf(weights[None], uniform).item() == pytest.approx(501, abs=1)


def test_each_token_of_a_stream_has_a_number_of_its_own():
    states = [Chooser(Sampling(temperature=1.0), seed=7, tokens=[5] * n) for n in range(20)]
    assert len(set(_draw(torch.zeros(20, 1000), states).tolist())) > 15  # one number for all would give one token


def test_a_row_without_top_p_draws_the_same_beside_one_with_it():
    logits = torch.randn(60, generator=torch.Generator().manual_seed(3))
    for seed in range(50):
        plain = Chooser(Sampling(temperature=1.0), seed=seed)
        cut = Chooser(Sampling(temperature=1.0, top_p=0.5), seed=seed)
        alone = _draw(logits[None], [plain])[0]
        assert _draw(logits.expand(2, -1), [plain, cut])[0] == alone
