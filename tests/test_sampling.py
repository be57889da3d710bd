"""How the next token is chosen: shares follow the distribution, cuts are exact, and no row's draw knows its company."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkling.core.errors import ConfigError, NumericsError
from thinkling.engine import sampling as sampling_module
from thinkling.engine.sampling import Chooser, Sampling, _modified, choose, inverse_cdf, uniform_number, uniform_numbers


def draws(logits, sampling, n=4000):
    chosen = choose(logits.expand(n, -1), [Chooser(sampling, seed=i) for i in range(n)]).tokens
    return torch.bincount(torch.tensor(chosen), minlength=logits.shape[0]) / n


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
    one = Chooser(Sampling(temperature=1.0, top_p=top_p), seed=seed)
    assert choose(logits[None], [one]).tokens[0] in allowed


def test_uniform_numbers_are_uniform_and_streams_differ():
    numbers = torch.tensor(
        [uniform_number(seed, place) for seed in range(60) for place in range(60)], dtype=torch.float64
    )
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert numbers.mean().item() == pytest.approx(0.5, abs=4.5 * math.sqrt(1 / 12 / 3600))
    assert len(set(numbers.tolist())) == 3600


BAD = [
    {"temperature": -1.0},
    {"temperature": 1e-4},
    {"temperature": math.nan},
    {"temperature": 1.0, "top_p": 0.0},
    {"temperature": 1.0, "top_k": -1},
    {"temperature": 1.0, "top_k": 1.5},
    {"temperature": 1.0, "min_p": 1.5},
    {"top_p": 0.5},
    {"top_k": 5},
    {"min_p": 0.1},
    {"repetition_penalty": 0.0},
    {"frequency_penalty": 3.0},
    {"presence_penalty": math.nan},
    {"max_new_tokens": 0},
    {"min_new_tokens": -1},
    {"min_new_tokens": 9, "max_new_tokens": 8},
    {"stop": ("",)},
]


@pytest.mark.parametrize("bad", BAD, ids=str)
def test_options_that_cannot_be_right_or_have_no_effect_are_refused_by_name(bad):
    with pytest.raises(ConfigError) as told:
        Sampling(**bad)
    assert list(bad)[-1] in told.value.what
    assert told.value.where == "sampling"
    assert told.value.fix


def test_a_token_of_probability_zero_is_never_drawn():
    weights = torch.tensor([[0.0, 1.0, 0.0]]).expand(3, -1)
    places, rest = inverse_cdf(weights, torch.tensor([0.0, 1 - 2.0**-53, 1.0], dtype=torch.float64))
    assert places.tolist() == [1, 1, 1]
    assert ((rest >= 0) & (rest <= 1)).all()


def test_rare_tokens_far_down_the_list_keep_their_chance():
    weights = torch.tensor([1.0] + [1e-8] * 1000)  # 1 + 1e-8 is 1 in fp32
    uniform = torch.tensor([(1 + 500.5e-8) / (1 + 1000e-8)], dtype=torch.float64)
    assert inverse_cdf(weights[None], uniform)[0].item() == pytest.approx(501, abs=1)


def test_each_token_of_a_stream_has_a_number_of_its_own():
    one = Chooser(Sampling(temperature=1.0), seed=7)
    given = [choose(torch.zeros(1, 1000), [one]).tokens[0] for _ in range(20)]
    assert len(set(given)) > 15  # one number for all would give one token
    later = Chooser(Sampling(temperature=1.0), seed=7, tokens=given[:13])
    assert choose(torch.zeros(1, 1000), [later]).tokens == given[13:14]


def test_numbers_drawn_ahead_are_those_of_their_places():
    assert uniform_numbers(5, 3, 100) == [uniform_number(5, place) for place in range(3, 103)]


# against transformers, and against the plain way ------------------------------------------------------------------

SETTINGS = [
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=0.6),
    Sampling(temperature=1.3, top_k=7),
    Sampling(temperature=1.0, top_k=300),
    Sampling(temperature=0.9, top_p=0.5),
    Sampling(temperature=1.0, top_p=0.95),
    Sampling(temperature=1.5, top_p=0.999),
    Sampling(temperature=1.0, min_p=0.02),
    Sampling(temperature=3.0, min_p=0.0001),
    Sampling(temperature=1.0, top_k=200, top_p=0.9),
    Sampling(temperature=1.2, top_k=6000, top_p=0.99, min_p=0.001),
]
"""Few tokens kept, some hundreds, and more than are looked at first: each of the three ways to draw is taken."""


def logits_like_a_models(n, vocabulary, seed, *, rounded):
    """(n, V) a few likely tokens above many unlikely ones; `rounded` to bf16, where many are alike."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, vocabulary, generator=generator) * 2.5
    logits[:, torch.randperm(vocabulary, generator=generator)[:40]] += 6 * torch.rand(n, 40, generator=generator)
    return logits.bfloat16().float() if rounded else logits


def plain_probabilities(logits, sampling):
    """(V,) fp64, one definition after the other on the whole sorted vocabulary; what is alike stays together."""
    order = np.argsort(-logits, kind="stable")
    ranked = logits[order].astype(np.float64)
    weights = np.exp((ranked - ranked[0]) / sampling.temperature)
    if sampling.top_k:
        weights[ranked < ranked[min(sampling.top_k, len(ranked)) - 1]] = 0
    if sampling.top_p < 1:
        before = np.cumsum(weights) - weights
        weights[ranked < ranked[before < sampling.top_p * weights.sum()][-1]] = 0
    weights[weights < sampling.min_p * weights[0]] = 0
    given = np.zeros(len(logits))
    given[order] = weights / weights.sum()
    return given


def transformers_probabilities(logits, sampling):
    """(V,) fp64 by transformers' own processors, in the order in which generate applies them."""
    from transformers.generation import logits_process as theirs

    scores = logits[None].double() / sampling.temperature
    if sampling.top_k:
        scores = theirs.TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = theirs.TopPLogitsWarper(sampling.top_p)(None, scores)
    if sampling.min_p:
        scores = theirs.MinPLogitsWarper(sampling.min_p)(None, scores)
    return torch.softmax(scores, -1)[0].numpy()


def assert_drawn_from(probabilities, seed, token, logprob):
    """The uniform number of the draw lies in the token's stretch of the cumulated probabilities, in order of ids."""
    assert probabilities[token] > 0
    assert logprob == pytest.approx(math.log(probabilities[token]), abs=1e-4)
    upto = float(probabilities[: token + 1].sum())
    assert upto - probabilities[token] - 1e-5 <= uniform_number(seed, 0) <= upto + 1e-5


@pytest.mark.parametrize("vocabulary", [50, 272, 12_800, 20_000])
@pytest.mark.parametrize("sampling", [one for one in SETTINGS if one.temperature], ids=str)
def test_a_draw_is_from_transformers_distribution(sampling, vocabulary):
    logits = logits_like_a_models(6, vocabulary, 3, rounded=False)
    choice = choose(logits, [Chooser(sampling, seed=i) for i in range(6)])
    for i in range(6):
        probabilities = transformers_probabilities(logits[i], sampling)
        assert_drawn_from(probabilities, i, choice.tokens[i], choice.sampled_logprobs[i])


@pytest.mark.parametrize("vocabulary", [272, 12_800])
@pytest.mark.parametrize("sampling", [one for one in SETTINGS if one.temperature], ids=str)
def test_tokens_that_are_alike_stay_or_go_together(sampling, vocabulary):
    logits = logits_like_a_models(6, vocabulary, 4, rounded=True)
    choice = choose(logits, [Chooser(sampling, seed=i) for i in range(6)])
    for i in range(6):
        probabilities = plain_probabilities(logits[i].numpy(), sampling)
        assert_drawn_from(probabilities, i, choice.tokens[i], choice.sampled_logprobs[i])


@pytest.mark.parametrize("tried", [(1, 2), (64, 64), (256, 4096), (20_000, 20_000)])
def test_how_many_tokens_are_looked_at_first_changes_no_draw(tried, monkeypatch):
    logits = logits_like_a_models(len(SETTINGS), 20_000, 5, rounded=True)
    wanted = choose(logits, [Chooser(one, seed=9) for one in SETTINGS])
    monkeypatch.setattr(sampling_module, "TRIED", tried)
    assert choose(logits, [Chooser(one, seed=9) for one in SETTINGS]) == wanted


@settings(max_examples=40)
@given(st.permutations(range(len(SETTINGS))), st.integers(1, len(SETTINGS)), st.integers(0, 2**63 - 1))
def test_no_rows_draw_depends_on_its_company(order, n, seed):
    logits = logits_like_a_models(len(SETTINGS), 9_000, 6, rounded=True)
    alone = [choose(logits[i : i + 1], [Chooser(SETTINGS[i], seed=seed + i)]).tokens[0] for i in order[:n]]
    rows = list(order[:n])
    together = choose(logits[rows], [Chooser(SETTINGS[i], seed=seed + i) for i in rows])
    assert together.tokens == alone


def test_greedy_takes_the_first_of_the_likeliest_and_tells_its_log_probability():
    logits = logits_like_a_models(5, 9_000, 7, rounded=True)
    logits[2, [7000, 130, 131]] = 40.0
    choice = choose(logits, [Chooser(Sampling()) for _ in range(5)])
    log_p = torch.log_softmax(logits.double(), -1)
    wanted = logits.numpy().argmax(-1).tolist()
    assert choice.tokens == wanted
    assert wanted[2] == 130
    assert choice.logprobs == pytest.approx(log_p[range(5), wanted].tolist(), abs=1e-5)
    assert choice.sampled_logprobs == [0.0] * 5


@settings(max_examples=60)
@given(
    st.lists(st.integers(0, 49), max_size=12),
    st.lists(st.integers(0, 49), max_size=12),
    st.floats(0.5, 2.0),
    st.floats(-2, 2),
    st.floats(-2, 2),
)
def test_penalties_are_those_of_ctrl_as_transformers_has_it_and_of_openai(
    prompt, tokens, repeated, frequency, presence
):
    from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor

    sampling = Sampling(repetition_penalty=repeated, frequency_penalty=frequency, presence_penalty=presence)
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(len(prompt)))
    one = Chooser(sampling, prompt=tuple(prompt), tokens=list(tokens))
    given = _modified(logits.clone(), [one, Chooser(Sampling())])
    wanted = logits[:1].clone()
    if prompt or tokens:
        wanted = RepetitionPenaltyLogitsProcessor(repeated)(torch.tensor([[*prompt, *tokens]]), wanted)
    counts = torch.bincount(torch.tensor(tokens, dtype=torch.int64), minlength=50)
    wanted = wanted - frequency * counts - presence * (counts > 0)
    assert torch.allclose(given[:1], wanted, atol=1e-5)
    assert torch.equal(given[1], logits[1])


def test_a_penalty_counts_what_was_just_chosen():
    one = Chooser(Sampling(presence_penalty=2.0))
    logits = torch.tensor([[3.0, 2.0, 1.5, 0.0]])
    assert [choose(logits, [one]).tokens[0] for _ in range(4)] == [0, 1, 2, 0]  # 1, 0 and -0.5 once seen


def test_no_end_comes_before_its_time():
    one = Chooser(Sampling(min_new_tokens=3), ends=(0, 2))
    assert [choose(torch.tensor([[9.0, 1.0, 5.0]]), [one]).tokens[0] for _ in range(5)] == [1, 1, 1, 0, 0]


def test_log_probabilities_are_of_the_unmodified_policy_whatever_changes_the_logits():
    logits = torch.randn(1, 300, generator=torch.Generator().manual_seed(1))
    sampling = Sampling(temperature=0.5, top_k=3, repetition_penalty=1.7, presence_penalty=1.0, min_new_tokens=4)
    choice = choose(logits, [Chooser(sampling, seed=3, prompt=tuple(range(100)), ends=(150,))])
    log_p = torch.log_softmax(logits[0].double(), -1)
    assert choice.logprobs[0] == pytest.approx(float(log_p[choice.tokens[0]]), abs=1e-5)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", [SETTINGS[0], SETTINGS[1], SETTINGS[-1]], ids=str)
def test_logits_that_are_no_numbers_are_told_with_their_request_and_place(sampling, broken):
    logits = torch.randn(3, 9_000, generator=torch.Generator().manual_seed(1))
    logits[1, 77] = broken
    with pytest.raises(NumericsError, match="request 1, token 3"):
        choose(logits, [Chooser(sampling, index=i, tokens=[5, 5]) for i in range(3)])


def test_a_row_without_a_cut_draws_the_same_beside_one_with_it():
    logits = torch.randn(60, generator=torch.Generator().manual_seed(3))
    for seed in range(50):
        plain, cut = Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.5)
        alone = choose(logits[None], [Chooser(plain, seed=seed)]).tokens[0]
        assert choose(logits.expand(2, -1), [Chooser(plain, seed=seed), Chooser(cut, seed=seed)]).tokens[0] == alone
