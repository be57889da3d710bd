"""Choosing between whole completions, and bound ones: plain enumeration and transformers are the oracles."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from thinkling.core.errors import ConfigError
from thinkling.data.types import Completion
from thinkling.engine.generate import Engine, Request, Sampling
from thinkling.engine.search import (
    beam_search,
    best_of_n,
    contrastive_search,
    draw,
    label_logprobs,
    rank_labels,
    self_consistency,
)
from thinkling.model.attend import PackedAttend
from thinkling.samplers import beam_search as beams
from thinkling.samplers import best_of_n as best
from thinkling.samplers.choices import machine as choices
from thinkling.samplers.label_ranking import rank
from thinkling.samplers.thinking import machine as thinking
from thinkling.samplers.vote import vote

PROMPT = tuple(range(60, 75))
LABELS = ["yes", "no", "maybe so", "nothing at all", "n"]


@pytest.fixture
def engine(tiny_model, tokenizer):
    return Engine(tiny_model, tokenizer)


@torch.no_grad()
def log_probabilities(model, tokens):
    """(N, V) by one plain forward."""
    n = len(tokens)
    hidden = model(torch.tensor(tokens), torch.arange(n), PackedAttend(torch.tensor([0, n]), way="sdpa"))
    return torch.log_softmax(model.logits(hidden).float(), -1)


# best of n, vote ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["mean", "sum"])
def test_the_best_of_n_has_the_highest_score_and_all_are_told(engine, by):
    request = Request(PROMPT, Sampling(temperature=1.5, max_new_tokens=12), seed=3)
    found = best_of_n(engine, request, 6, score=by)
    wanted = [sum(c.logprobs) / (len(c.logprobs) if by == "mean" else 1) for c in found.completions]
    assert found.scores == pytest.approx(wanted)
    assert found.scores[found.index] == max(found.scores)
    assert len({c.tokens for c in found.completions}) > 1
    assert [c.tokens for c in draw(engine, request, 3)] == [c.tokens for c in found.completions[:3]]


def test_a_reward_can_be_the_score(engine):
    request = Request(PROMPT, Sampling(temperature=1.5, max_new_tokens=12), seed=3)
    found = best_of_n(engine, request, 6, score=lambda completion: -len(completion.tokens))
    assert len(found.completion.tokens) == min(len(c.tokens) for c in found.completions)


def test_what_names_no_best_completion_is_refused(engine):
    with pytest.raises(ConfigError, match="likeliest"):
        best_of_n(engine, Request(PROMPT, Sampling(temperature=1.0)), 2, score="likeliest")
    for scores in ([], [1.0, math.nan]):
        with pytest.raises(ConfigError):
            best.best(scores)
    with pytest.raises(ConfigError, match="2 completions at temperature 0"):
        draw(engine, Request(PROMPT), 2)


@given(st.lists(st.one_of(st.none(), st.sampled_from("abc"))))
def test_a_vote_counts_everyone_once_and_tells_ties(answers):
    found = vote(answers)
    assert sum(found.votes.values()) + found.abstentions == len(answers)
    most = max(found.votes.values(), default=0)
    leading = [a for a in dict.fromkeys(answers) if a is not None and answers.count(a) == most]
    assert found.answer == (leading[0] if leading else None)
    assert list(found.tied) == (leading if len(leading) > 1 else [])
    assert found.agreement == (most / len(answers) if answers else 0.0)


def test_self_consistency_votes_over_extracted_answers(engine):
    request = Request(PROMPT, Sampling(temperature=1.5, max_new_tokens=4), seed=1)
    found, completions = self_consistency(engine, request, 8, lambda text: text[:1] if text[:1].isalpha() else None)
    assert sum(found.votes.values()) == sum(c.text[:1].isalpha() for c in completions)


# labels ---------------------------------------------------------------------------------------------------------------


def test_labels_in_one_pass_are_worth_what_each_is_worth_alone(engine, tiny_model, tokenizer):
    for label, given_ in zip(LABELS, label_logprobs(engine, PROMPT, LABELS), strict=True):
        tokens = tokenizer.encode(label)
        log_p = log_probabilities(tiny_model, [*PROMPT, *tokens])[len(PROMPT) - 1 :]
        wanted = [float(log_p[i, token]) for i, token in enumerate(tokens)]
        assert given_ == pytest.approx([*wanted, float(log_p[-1, list(tokenizer.stop_ids)].logsumexp(0))], abs=1e-4)


def test_a_constrained_completion_reports_the_log_likelihood_that_ranking_gives_its_label(engine, tokenizer):
    given_ = dict(zip(LABELS, label_logprobs(engine, PROMPT, LABELS), strict=True))
    sampling = Sampling(temperature=2.0, choices=tuple(LABELS), max_new_tokens=30)
    completions = engine.generate([Request(PROMPT, sampling, seed=i) for i in range(30)])
    assert len({c.text for c in completions}) > 1
    for completion in completions:
        assert completion.text in LABELS
        assert completion.finish_reason == "stop"
        if len(tokenizer.stop_ids) == 1:
            assert completion.logprobs == pytest.approx(given_[completion.text], abs=1e-4)
        else:
            assert completion.logprobs[:-1] == pytest.approx(given_[completion.text][:-1], abs=1e-4)


def test_labels_that_part_at_their_first_token_and_weigh_the_same_behind_it_are_ranked_as_greedy_choice_does(engine):
    labels = ["a", "k", "z", "7"]
    given_ = label_logprobs(engine, PROMPT, labels)
    first = max(range(4), key=lambda i: given_[i][0])
    greedy = engine.generate([Request(PROMPT, Sampling(choices=tuple(labels)))])[0]
    assert greedy.text == labels[first]
    assert rank([label[:1] for label in given_])[0].index == first


def test_normalising_by_length_and_prior_is_what_it_says(engine):
    prior = (65, 66)
    given_, unasked = label_logprobs(engine, PROMPT, LABELS), label_logprobs(engine, prior, LABELS)
    plain = {one.index: one.score for one in rank_labels(engine, PROMPT, LABELS)}
    pmi = {one.index: one.score for one in rank_labels(engine, PROMPT, LABELS, prior=prior, length_normalized=True)}
    for i in range(len(LABELS)):
        assert plain[i] == pytest.approx(sum(given_[i]))
        assert pmi[i] == pytest.approx((sum(given_[i]) - sum(unasked[i])) / len(given_[i]))
    assert rank(given_, prior=given_)[0].score == 0.0  # what the question does not change ranks nothing


@pytest.mark.parametrize("labels", [[], [""], ["a", "a"]])
def test_labels_that_cannot_be_ranked_are_refused(engine, labels):
    with pytest.raises(ConfigError):
        rank_labels(engine, PROMPT, labels)


# machines -------------------------------------------------------------------------------------------------------------


@given(st.sets(st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple), min_size=1), st.data())
def test_a_constrained_choice_is_always_one_of_the_texts_and_can_be_each(texts, data):
    machine, taken = choices(sorted(texts), (9,)), []
    while not taken or taken[-1] != 9:
        taken.append(machine.take(data.draw(st.sampled_from(machine.allowed()))))
    assert tuple(taken[:-1]) in texts
    for text in texts:
        machine = choices(sorted(texts), (9,))
        for token in (*text, 9):
            assert token in machine.allowed()
            machine.take(token)


def test_a_budget_for_thought_forces_the_tag_and_nothing_else(engine, tokenizer):
    for seed in range(5):
        free = Sampling(temperature=1.0, max_new_tokens=40)
        bound = Sampling(temperature=1.0, max_new_tokens=40, thinking_budget=10)
        plain, forced = engine.generate([Request(PROMPT, free, seed=seed), Request(PROMPT, bound, seed=seed)])
        if len(plain.tokens) <= 10:
            continue
        assert forced.tokens[:10] == plain.tokens[:10]
        assert tokenizer.decode(forced.tokens[10:18]) == "</think>"  # a byte a token
        assert forced.forced == tuple(range(10, 18))


def test_a_thought_that_closes_in_time_is_left_alone():
    machine = thinking(close=(7, 8), closes=lambda tokens: tokens[-2:] == [7, 8], budget=4)
    for token in (1, 7, 8, 2, 3, 4, 5):
        assert machine.allowed() is None
        assert machine.take(token) == token


def test_a_tag_half_written_when_the_budget_ends_is_completed_and_not_begun_anew():
    machine = thinking(close=(7, 8), closes=lambda tokens: tokens[-2:] == [7, 8], budget=3)
    for token in (1, 2, 7):
        machine.take(token)
    assert machine.allowed() == (8,)
    machine.take(8)
    assert machine.allowed() is None


def test_a_closing_tag_becomes_a_wait_so_many_times_and_then_stands():
    machine = thinking(close=(7,), closes=lambda tokens: 7 in tokens, wait=(20, 21), waits=2)
    said = []
    for wanted in (1, 7, 7, 7, 7, 7):
        allowed = machine.allowed()
        said.append(machine.take(allowed[0] if allowed else wanted))
    assert said == [1, 20, 21, 20, 21, 7]


@pytest.mark.parametrize(
    ("settings_", "said"),
    [
        ({"choices": ("a", "a")}, "choices"),
        ({"choices": ("a", "")}, "choices"),
        ({"choices": ("a",), "stop": ("b",)}, "stop"),
        ({"choices": ("a",), "thinking_budget": 5}, "thinking_budget"),
        ({"choices": ("abc",), "max_new_tokens": 3}, "4 tokens"),
        ({"thinking_budget": -1}, "thinking_budget"),
        ({"thinking_budget": 9, "max_new_tokens": 9}, "thinking_budget"),
        ({"thinking_waits": 1}, "one token"),
        ({"thinking_budget": 5, "thinking_close": ""}, "thinking_close"),
        ({"stop_tokens": (272,)}, "272"),
    ],
)
def test_what_contradicts_or_cannot_be_is_refused_before_anything_is_generated(engine, settings_, said):
    with pytest.raises(ConfigError) as told:
        engine.generate([Request(PROMPT, Sampling(**settings_))])
    assert said in told.value.what
    assert told.value.fix


def test_a_stop_token_ends_a_completion(engine):
    request = Request(PROMPT, Sampling(temperature=1.0, max_new_tokens=40), seed=2)
    tokens = engine.generate([request])[0].tokens
    sampling = Sampling(temperature=1.0, max_new_tokens=40, stop_tokens=(tokens[5],))
    stopped = engine.generate([Request(PROMPT, sampling, seed=2)])[0]
    assert stopped.tokens == tokens[: tokens.index(tokens[5]) + 1]
    assert stopped.finish_reason == "stop"


def test_sampled_log_probabilities_are_told_when_asked_for(engine):
    for asked in (False, True):
        sampling = Sampling(temperature=0.7, top_k=4, max_new_tokens=9, sampled_logprobs=asked)
        completion: Completion = engine.generate([Request(PROMPT, sampling, seed=2)])[0]
        assert len(completion.sampled_logprobs) == (len(completion.tokens) if asked else 0)
        assert all(-5 < logprob <= 1e-6 for logprob in completion.sampled_logprobs)


# beams, contrast ------------------------------------------------------------------------------------------------------


class Table:
    """A model of four tokens whose log-probabilities depend on the tokens so far by a fixed random table."""

    def __init__(self, seed):
        self.seed, self.rows = seed, [()]

    def _log_p(self, row):
        generator = torch.Generator().manual_seed(hash((self.seed, *row)) % 2**31)
        return torch.log_softmax(torch.randn(4, generator=generator) * 2, -1)

    def start(self):
        self.rows = [()]
        return self._log_p(())[None]

    def extend(self, parents, tokens):
        self.rows = [(*self.rows[p], t) for p, t in zip(parents, tokens, strict=True)]
        return torch.stack([self._log_p(row) for row in self.rows])

    def score(self, tokens):
        return sum(float(self._log_p(tokens[:i])[t]) for i, t in enumerate(tokens))


@given(st.integers(0, 10**6), st.sampled_from([0.0, 1.0]))
def test_beams_as_wide_as_the_tree_find_the_best_of_all_completions(seed, length_penalty):
    table = Table(seed)
    found = beams.search(table, width=4**4, ends={3}, max_new_tokens=4, length_penalty=length_penalty)
    every = [
        tokens
        for n in range(1, 5)
        for tokens in itertools.product(range(4), repeat=n)
        if 3 not in tokens[:-1] and (tokens[-1] == 3 or n == 4)
    ]
    scores = {tokens: table.score(tokens) / len(tokens) ** length_penalty for tokens in every}
    wanted = sorted(every, key=lambda tokens: -scores[tokens])
    assert [beam.tokens for beam in found] == wanted
    assert found[0].score == pytest.approx(scores[wanted[0]], abs=1e-5)
    assert sum(found[0].logprobs) == pytest.approx(table.score(wanted[0]), abs=1e-5)


def test_one_beam_is_greedy(engine):
    sampling = Sampling(max_new_tokens=20)
    greedy = engine.generate([Request(PROMPT, sampling)])[0]
    assert beam_search(engine, Request(PROMPT, sampling), width=1)[0].tokens == greedy.tokens


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("width", [2, 4])
def test_beams_are_those_of_transformers(engine, tiny_model_dir, tokenizer, width, length_penalty):
    from transformers import AutoModelForCausalLM

    theirs = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    for begin in range(40, 52):
        prompt = tuple(range(begin, begin + 9))
        ends = (*tokenizer.stop_ids, *range(0, 40, 3))  # often enough that beams end early
        wanted = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, 9, dtype=torch.int64),
            num_beams=width,
            num_return_sequences=width,
            max_new_tokens=8,
            do_sample=False,
            length_penalty=length_penalty,
            early_stopping=False,
            eos_token_id=list(ends),
            pad_token_id=0,
        )
        sampling = Sampling(max_new_tokens=8, stop_tokens=ends)
        found = beam_search(engine, Request(prompt, sampling), width=width, length_penalty=length_penalty)
        for row, completion in zip(wanted[:, 9:].tolist(), found, strict=True):
            n = len(completion.tokens)
            assert (*row[:n],) == completion.tokens
            assert set(row[n:]) <= {0, tokenizer.pad_id}  # padding


@pytest.mark.parametrize("alpha", [0.0, 0.4, 0.6])
def test_contrastive_search_is_its_equation(engine, tiny_model, alpha):
    found = contrastive_search(engine, Request(PROMPT, Sampling(max_new_tokens=12)), k=4, alpha=alpha)
    tokens = list(PROMPT)
    while len(tokens) < len(PROMPT) + len(found.tokens):
        top = log_probabilities(tiny_model, tokens)[-1].topk(4)
        scores = []
        for log_p, candidate in zip(top.values, top.indices.tolist(), strict=True):
            row = [*tokens, candidate]
            with torch.no_grad():
                starts = torch.tensor([0, len(row)])
                hidden = tiny_model(torch.tensor(row), torch.arange(len(row)), PackedAttend(starts, way="sdpa"))
            likeness = torch.cosine_similarity(hidden[-1:], hidden[:-1]).max()
            scores.append(float((1 - alpha) * log_p.exp() - alpha * likeness))
        tokens.append(top.indices.tolist()[max(range(4), key=scores.__getitem__)])
    assert found.tokens == tuple(tokens[len(PROMPT) :])
    if alpha == 0:
        assert found.tokens == engine.generate([Request(PROMPT, Sampling(max_new_tokens=12))])[0].tokens


def test_log_probabilities_of_a_search_are_those_of_a_full_forward(engine, tiny_model):
    request = Request(PROMPT, Sampling(max_new_tokens=10))
    for completion in (*beam_search(engine, request, width=3), contrastive_search(engine, request)):
        log_p = log_probabilities(tiny_model, [*PROMPT, *completion.tokens])[len(PROMPT) - 1 :]
        wanted = [float(log_p[i, token]) for i, token in enumerate(completion.tokens)]
        assert completion.logprobs == pytest.approx(wanted, abs=1e-4)


def test_settings_that_a_search_does_not_take_are_refused(engine):
    with pytest.raises(ConfigError, match="temperature"):
        beam_search(engine, Request(PROMPT, Sampling(temperature=1.0)), width=2)
    with pytest.raises(ConfigError, match="width"):
        beam_search(engine, Request(PROMPT), width=0)
    with pytest.raises(ConfigError, match="alpha"):
        contrastive_search(engine, Request(PROMPT), alpha=1.5)
    with pytest.raises(ConfigError, match="0 tokens"):
        contrastive_search(engine, Request(()))
