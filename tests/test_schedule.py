"""Schedules: pure functions of the step, that fit the run or are refused."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from thinkling.core.errors import ConfigError
from thinkling.engine.schedule import (
    Schedule,
    ScheduleConfig,
    plateau_factor,
    rate_factor,
    refuse_schedule,
    schedule_factor,
    warmup_length,
)

KINDS = get_args(Schedule)
FALLING = [kind for kind in KINDS if kind not in ("constant", "plateau")]


@given(st.sampled_from(KINDS), st.integers(1, 50), st.integers(101, 400), st.floats(0, 1), st.integers(1, 50))
def test_schedules_rise_to_one_then_never_rise_again_and_end_at_the_minimum(kind, warmup, total, minimum, decay):
    def factor(step):
        return schedule_factor(kind, step, warmup_steps=warmup, total_steps=total, minimum=minimum, decay_steps=decay)

    factors = [factor(step) for step in range(1, total + 1)]
    rising, falling = factors[:warmup], factors[warmup - 1 :]
    assert rising == sorted(rising)
    assert rising[-1] == 1.0
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(falling))
    wanted = {"constant": 1.0, "plateau": 1.0, "inverse_sqrt": max(minimum, math.sqrt(warmup / (total + 1)))}
    assert factor(total + 1) == pytest.approx(wanted.get(kind, minimum), abs=1e-9)
    assert min(factors) > 0


@given(st.integers(0, 20), st.integers(1, 30), st.integers(50, 200))
def test_warmup_stable_decay_is_stable_until_its_decay_and_falls_in_equal_steps(warmup, decay, total):
    config = ScheduleConfig(
        lr_scheduler_type="warmup_stable_decay", warmup_ratio=0 if warmup < 2 else None,
        warmup_steps=warmup if warmup > 1 else None, decay_steps=decay,
    )  # fmt: skip
    factors = [rate_factor(config, step, total) for step in range(1, total + 1)]
    assert factors[max(warmup, 1) - 1 : total - decay] == [1.0] * (total - decay - max(warmup, 1) + 1)
    falls = [a - b for a, b in itertools.pairwise([*factors[total - decay - 1 :], 0.0])]
    assert falls == pytest.approx([1 / (decay + 1)] * (decay + 1))


def test_inverse_sqrt_is_that_of_the_transformer_paper_as_a_share_of_its_peak():
    def paper(step, warmup, width=512):  # Vaswani et al. 2017, equation 3
        return width**-0.5 * min(step**-0.5, step * warmup**-1.5)

    for step in (1, 5, 10, 11, 40, 90):
        ours = schedule_factor("inverse_sqrt", step, warmup_steps=10, total_steps=90, minimum=0.0)
        assert ours == pytest.approx(paper(step, 10) / paper(10, 10))


losses = st.lists(st.floats(0.1, 5.0).map(lambda x: round(x, 1)), max_size=40)


@given(
    losses,
    st.integers(0, 4),
    st.sampled_from([0.1, 0.5, 0.9]),
    st.sampled_from([0.0, 0.25]),
    st.sampled_from([0.0, 0.3]),
)
def test_plateau_is_torchs_reduce_on_plateau_told_from_the_list(seen, patience, factor, threshold, minimum):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    oracle = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer, factor=factor, patience=patience, threshold=threshold, threshold_mode="abs", min_lr=minimum, eps=0.0
    )
    for loss in seen:
        oracle.step(loss)
    ours = plateau_factor(seen, patience=patience, factor=factor, threshold=threshold, minimum=minimum)
    assert ours == pytest.approx(optimizer.param_groups[0]["lr"])


def test_plateau_waits_for_the_warm_up():
    config = ScheduleConfig(lr_scheduler_type="plateau", warmup_steps=4, plateau_patience=1)
    bad = [1.0, 2.0, 3.0]
    assert [rate_factor(config, step, 10, bad) for step in (1, 2, 3, 4, 5)] == [0.25, 0.5, 0.75, 1.0, 0.5]


@given(st.floats(0.001, 0.999), st.integers(2, 300))
def test_a_warm_up_that_is_asked_for_keeps_the_first_step_below_the_peak(ratio, steps):
    config = ScheduleConfig(warmup_ratio=ratio)
    length = warmup_length(config, steps)
    assert length >= 2
    assert abs(length - ratio * steps) <= 0.5 or length == 2
    assert rate_factor(config, 1, steps) <= 0.5


def test_without_a_warm_up_the_first_step_is_at_the_peak():
    assert rate_factor(ScheduleConfig(warmup_ratio=0), 1, 10) == 1.0
    assert rate_factor(ScheduleConfig(), 1, 1) == 1.0  # a run of one step has no room for one


def test_steps_take_the_place_of_the_share_and_can_be_read_again():
    config = ScheduleConfig(warmup_steps=7, lr_scheduler_type="warmup_stable_decay", decay_steps=3)
    assert (config.warmup_ratio, config.decay_ratio, warmup_length(config, 50)) == (None, None, 7)
    assert ScheduleConfig(**config.model_dump()) == config


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"warmup_steps": 11}, "warmup_steps"),
        (
            {"warmup_steps": 5, "lr_scheduler_type": "warmup_stable_decay", "decay_steps": 6},
            "warmup_steps, decay_steps",
        ),
        ({"warmup_ratio": 0.9, "lr_scheduler_type": "warmup_stable_decay"}, "warmup_ratio, decay_ratio"),
    ],
)
def test_a_schedule_longer_than_the_run_is_refused_with_the_mend(settings, named):
    with pytest.raises(ConfigError, match="longer than the run") as caught:
        refuse_schedule(ScheduleConfig(**settings), 10)
    assert caught.value.where == named
    assert "max_steps" in caught.value.fix


def test_a_schedule_as_long_as_the_run_is_none_too_long():
    refuse_schedule(ScheduleConfig(warmup_steps=10), 10)
    refuse_schedule(ScheduleConfig(warmup_steps=5, lr_scheduler_type="warmup_stable_decay", decay_steps=5), 10)


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup_steps": 5, "warmup_ratio": 0.1},
        {"warmup_steps": 1},
        {"warmup_ratio": None},
        {"decay_steps": 5},
        {"decay_ratio": 0.3},
        {"plateau_factor": 0.1},
        {"lr_scheduler_type": "constant", "minimum_learning_rate_ratio": 0.1},
        {"lr_scheduler_type": "warmup_stable_decay", "decay_ratio": None},
        {"lr_scheduler_type": "warmup_stable_decay", "decay_steps": 3, "decay_ratio": 0.1},
    ],
)
def test_settings_that_contradict_or_have_no_effect_are_refused(settings):
    with pytest.raises(ValidationError):
        ScheduleConfig(**settings)
