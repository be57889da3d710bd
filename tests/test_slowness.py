"""The alarm of slowness: silent at the expected speed, told once for each cause, and the cause is the planted one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkling.engine.plan import REACHED
from thinkling.engine.slowness import FIRST_STEPS, SpeedWatch, busy_seconds

PEAK = 1e12
USUAL = REACHED["cpu"]


class Machine:
    """Steps of a training on a machine whose clock and load are made up. `speed`: of the share that is expected."""

    def __init__(self, device: str = "cpu") -> None:
        self.all, self.own = 0.0, 0.0
        self.watch = SpeedWatch(PEAK, device, busy=lambda: (self.all, self.own))
        self.expected = REACHED[device]

    def steps(self, n, speed=1.0, others=0.0, tokens=2000, micro_batches=2, training_s=5.0, **phases):
        found = []
        for _ in range(n):
            split = {f"time/{name}_s": phases.get(name, 0.0) for name in ("data", "evaluation", "checkpoint")}
            step_s = training_s + sum(split.values())
            self.all += (2 + others) * step_s
            self.own += 2 * step_s
            self.watch.computed(speed * self.expected * PEAK * training_s, training_s, micro_batches, tokens)
            found.append(self.watch.after_step({**split, "time/step_s": step_s}))
        return [one for one in found if one is not None]


def test_a_training_at_the_expected_speed_is_left_alone():
    assert Machine().steps(200) == []


@given(st.lists(st.floats(0.55, 1.0), min_size=1, max_size=80))
def test_speed_that_wavers_by_less_than_the_factor_is_left_alone(speeds):
    machine = Machine()
    assert [found for speed in speeds for found in machine.steps(1, speed)] == []


@pytest.mark.parametrize(
    ("cause", "amount", "how"),
    [
        ("data", 0.6, {"data": 7.5}),
        ("evaluation", 0.75, {"evaluation": 15.0}),
        ("checkpoint", 0.6, {"checkpoint": 7.5}),
        ("others", 0.5, {"speed": 0.3, "others": 0.5}),
        ("small", 50.0, {"speed": 0.3, "tokens": 400, "micro_batches": 8}),
        ("unknown", 0.0, {"speed": 0.3}),
    ],
)
def test_a_planted_cause_is_named_once_with_its_size(cause, amount, how):
    machine = Machine()
    [found] = machine.steps(100, **how)
    assert found.cause == cause
    assert found.amount == pytest.approx(amount)
    assert found.expected == USUAL
    assert found.reached < USUAL / 2
    assert f"{found.reached:.1%}" in found.in_words(12)
    assert str(found.record()["cause"]) == cause


def test_a_run_that_becomes_slow_is_held_against_its_own_best():
    machine = Machine()
    assert machine.steps(50, speed=2.5) == []
    [found] = machine.steps(50, speed=1.1)  # more than was promised
    assert found.expected == pytest.approx(2.5 * USUAL)


def test_a_second_cause_is_told_as_well():
    machine = Machine()
    found = machine.steps(40, speed=0.3) + machine.steps(40, evaluation=15.0) + machine.steps(40, speed=0.3)
    assert [one.cause for one in found] == ["unknown", "evaluation"]


def test_the_first_steps_and_a_short_run_are_not_judged():
    assert Machine().steps(FIRST_STEPS, speed=0.001, training_s=100.0) == []
    assert Machine().steps(1000, speed=0.01, training_s=0.05) == []  # 50 s in all
    assert Machine().steps(9, speed=0.01, training_s=100.0) == []


def test_on_a_card_more_tokens_are_few():
    [found] = Machine("cuda").steps(100, speed=0.3, tokens=2000, micro_batches=2)
    assert found.cause == "small"
    [found] = Machine("cuda").steps(100, speed=0.3, tokens=8000, micro_batches=2)
    assert found.cause == "unknown"


def test_the_cores_of_this_process_are_among_those_of_all():
    busy, own = busy_seconds()
    sum(i * i for i in range(2_000_000))
    busy_after, own_after = busy_seconds()
    assert own_after > own
    assert busy_after - busy >= 0.5 * (own_after - own)
