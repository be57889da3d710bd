"""The alarm of overfitting: silent where nothing truly rises, told once where it does, the same under a resume."""

from __future__ import annotations

import copy
import os
import random
import signal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_trainer import Watch, rows, training

from thinkling.core.errors import Interrupted
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.data.loader import Loader
from thinkling.engine import overfitting
from thinkling.engine.gradient import RowLosses, mean_loss, row_losses
from thinkling.engine.overfitting import OverfitWatch
from thinkling.engine.settings import TrainerConfig

ROWS, TOKENS = 48, 20


def looked_at(seed, true_losses, noise, train_losses):
    """Which looks raise the alarm: each row costs its own level, the true loss, and noise of its own at each look."""
    draw = random.Random(seed)
    watch = OverfitWatch(len(true_losses))
    levels = [draw.expovariate(1.0) for _ in range(ROWS)]  # rows differ much more than looks do
    alarms = []
    for step, (true, train) in enumerate(zip(true_losses, train_losses, strict=True), 1):
        watch.trained(train)
        nats = [(level + true + draw.gauss(0, noise)) * TOKENS for level in levels]
        losses = RowLosses(torch.tensor(nats, dtype=torch.float64), torch.full((ROWS,), float(TOKENS)))
        found = watch.judge(losses)
        watch.accept(step, losses, found)
        alarms += [(step, found)] if found else []
    return alarms


FALLING = [2.0 - 0.1 * i for i in range(12)]


def test_noise_alone_raises_the_alarm_in_no_more_runs_than_the_risk_says(monkeypatch):
    def alarmed():
        return sum(bool(looked_at(seed, [1.0] * 12, 0.4, FALLING)) for seed in range(300))

    assert alarmed() <= 0.05 * 300
    # Not because there is little noise: each pair judged as if it were the only one, many runs are called overfitting.
    monkeypatch.setattr(overfitting, "RISK", 0.05 * (12 * 11 // 2))
    assert alarmed() > 0.2 * 300


def test_a_true_rise_is_told_once_with_its_size():
    for seed in range(20):
        [(step, found)] = looked_at(seed, [1.0, 0.8, 0.6, 0.8, 1.0, 1.2, 1.4], 0.1, FALLING[:7])
        assert (step, found.best_step) == (4, 3)
        assert found.rise == pytest.approx(0.2, abs=0.1)
        assert 0 < found.at_least < found.rise
        assert (found.train_then, found.train_now) == pytest.approx((1.8, 1.7))


def test_a_second_rise_from_a_lower_loss_is_told_again():
    alarms = looked_at(0, [1.0, 1.5, 1.6, 0.2, 0.7, 0.8], 0.05, FALLING[:6])
    assert [step for step, _ in alarms] == [2, 5]


def test_a_rise_while_the_training_loss_rises_too_is_no_overfitting():
    assert looked_at(0, [1.0, 1.5, 1.6], 0.05, [1.0, 1.1, 1.2]) == []


def test_a_rise_that_is_sure_and_of_no_consequence_is_not_told():
    assert looked_at(0, [1.0, 1.001, 1.002], 1e-6, FALLING[:3]) == []


@given(
    st.lists(st.floats(0, 9) | st.just(float("nan")) | st.just(float("inf")), min_size=1, max_size=6),
    st.integers(1, 30),
)
def test_whatever_the_losses_are_the_watch_goes_on_and_its_state_is_all_it_knows(losses, n):
    watch = OverfitWatch(len(losses))
    for step, loss in enumerate(losses, 1):
        watch.trained(1.0 / step)
        again = OverfitWatch(len(losses))
        again.restore(watch.state())
        rows = RowLosses(torch.full((n,), loss, dtype=torch.float64), torch.ones(n, dtype=torch.float64))
        assert watch.judge(rows) == again.judge(rows)
        for one in (watch, again):
            one.accept(step, rows, one.judge(rows))
        assert watch.state() == again.state()
        watch.accept(step, rows, watch.judge(rows))  # the same look again
        assert watch.state() == again.state()


@pytest.mark.parametrize("micro_batch_tokens", [20, 10_000])
def test_the_loss_of_each_row_is_its_loss_alone_and_all_of_them_are_the_mean(tiny_model, micro_batch_tokens):
    beginning = list(range(100, 120))  # shared, and computed once
    given = [type(row)(beginning + row.tokens, [0.0] * 20 + row.weights, row.source) for row in rows(8)]
    config = TrainerConfig(micro_batch_tokens=micro_batch_tokens)
    loader = Loader(given, batch_rows=8)
    parts = [loader.packed([0, 1, 2]), loader.packed([3, 4, 5, 6, 7])]
    together = row_losses(tiny_model, parts, config)
    alone = [row_losses(tiny_model, [loader.packed([place])], config) for place in range(8)]
    torch.testing.assert_close(together.nats, torch.cat([one.nats for one in alone]), rtol=1e-5, atol=1e-5)
    assert together.weights.tolist() == [sum(row.weights) for row in given]
    assert together.mean == mean_loss(tiny_model, parts, config)


# in the loop ------------------------------------------------------------------------------------------------------


def overfitted(model, tokenizer, folder, progress=None, **changes):
    """Four rows learnt by heart, beside rows that have nothing to do with them."""
    loader = Loader(rows(24, seed=9), batch_rows=24)
    given = {"steps": 16, "data": rows(4), "held_out": [loader.packed(range(24))], "eval_steps": 2, **changes}
    return training(model, tokenizer, folder, progress, learning_rate=5e-2, save_steps=4, **given)


def alarms(folder):
    return [event for event in Run.open(folder).events() if event["event"] == "overfitting"]


def test_rows_learnt_by_heart_raise_one_alarm_with_the_mend(tiny_model, tokenizer, tmp_path):
    progress = Silent()
    overfitted(tiny_model, tokenizer, tmp_path / "run", progress, save_best="loss/validation")
    [event] = alarms(tmp_path / "run")
    looks = {
        line["step"]: line["loss/validation"]
        for line in Run.open(tmp_path / "run").metrics()
        if line["step"] and "loss/validation" in line
    }
    assert event["best_step"] < event["step"] < 16
    assert event["rise"] == pytest.approx(looks[event["step"]] - looks[event["best_step"]])
    assert looks[16] > looks[event["step"]]  # it went on rising, and was not told again
    [note] = [note for note in progress.notes if "overfitting" in note]
    assert note.endswith("what helps: fewer epochs, early_stopping=loss/validation")  # the best one is kept already


@pytest.mark.parametrize("stop_at", [4, 6, 8, 11])
def test_a_resumed_training_raises_the_alarm_of_one_never_stopped(tiny_model, tokenizer, tmp_path, stop_at):
    again = copy.deepcopy(tiny_model)
    overfitted(tiny_model, tokenizer, tmp_path / "whole")
    stop = Watch(stop_at, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        overfitted(copy.deepcopy(again), tokenizer, tmp_path / "parted", stop)
    overfitted(again, tokenizer, tmp_path / "parted")
    assert alarms(tmp_path / "whole") == alarms(tmp_path / "parted") != []


def test_held_out_rows_change_no_step(tiny_model, tokenizer, tmp_path):
    again = copy.deepcopy(tiny_model)
    overfitted(tiny_model, tokenizer, tmp_path / "a")
    overfitted(again, tokenizer, tmp_path / "b", held_out=(), eval_steps=0)
    assert all(torch.equal(one, other) for one, other in zip(tiny_model.parameters(), again.parameters(), strict=True))


def test_the_mends_are_those_that_are_not_set_yet():
    assert overfitting.mends(TrainerConfig(), 32)[1:] == [
        "early_stopping=loss/validation",
        "save_best=loss/validation",
        "a rank below 32",
    ]
    set_already = TrainerConfig(early_stopping="loss/validation", save_best="loss/validation", eval_steps=2)
    assert overfitting.mends(set_already, None) == ["fewer epochs"]
