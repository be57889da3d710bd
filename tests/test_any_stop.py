"""The law of resuming, over settings and instants drawn at random: however often and wherever a training is stopped, by
Ctrl-C or by force, it comes to the weights, metrics, samples, events and choice of one never stopped."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from killing import OF_THE_CLOCK, rows, tiny_model

from thinkling.core.errors import Interrupted, NumericsError
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.data.loader import Loader
from thinkling.engine import checkpoint, overfitting, trainer
from thinkling.engine.keeping import Keeper
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.settings import TrainerConfig
from thinkling.engine.trainer import Speed, train
from thinkling.losses import CROSS_ENTROPY

STEPS = 18
METRICS = ("loss/validation", "accuracy/validation")


class Killed(BaseException):
    """Nobody catches it: from its instant on nothing is written."""


class Instants:
    """Counts the instants of a training, between which the disk or the weights change; at one of them it is stopped."""

    def __init__(self) -> None:
        self.count, self.at, self.how = 0, 0, ""

    def arrange(self, at: int = 0, how: str = "") -> None:
        self.count, self.at, self.how = 0, at, how

    def pass_one(self) -> None:
        self.count += 1
        if self.count == self.at and self.how == "kill":
            raise Killed
        if self.count == self.at:
            os.kill(os.getpid(), signal.SIGINT)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any, **named: Any) -> Any:
            self.pass_one()
            result = function(*arguments, **named)
            self.pass_one()
            return result

        return watched


class Leaping(Loader):
    """The losses of some batches, counted from 1 as they are drawn, are a thousand times as large."""

    leaps: tuple[int, ...] = ()
    count = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.count += 1
            batch.columns["leap"] = torch.full_like(batch.loss_weights, 1000.0 if self.count in self.leaps else 1.0)
            yield batch

    def state(self):
        return {**super().state(), "count": self.count}

    def restore(self, state):
        super().restore(state)
        self.count = state["count"]


@pytest.fixture
def instants(monkeypatch: pytest.MonkeyPatch) -> Instants:
    found, plain = Instants(), trainer.accumulate

    def with_leaps(model, batch, loss, optimizer, config, **measured):
        means, micros = plain(model, batch, loss, optimizer, config, **measured)
        factor = float(batch.columns["leap"][0])
        for sums in optimizer.gradients:
            sums.mul_(factor)
        return {term: mean * factor for term, mean in means.items()}, micros

    monkeypatch.setattr(trainer, "accumulate", with_leaps)
    places = [(Run, name) for name in ("log", "event", "write_best", "keep_steps_up_to", "sync")]
    for owner, name in (*places, (checkpoint, "begin"), (Keeper, "settle"), (MasterAdamW, "step")):
        monkeypatch.setattr(owner, name, found.around(getattr(owner, name)))
    return found


def drawn_settings(draw: random.Random) -> dict[str, Any]:
    """Settings that decide something on the way, in any combination."""
    average = draw.choice([{}, {"average": "ema"}, {"average": "last", "average_last": draw.choice([2, 3])}])
    final = {"final_model": "average"} if average and draw.random() < 0.5 else {}
    spikes = draw.choice(
        [{}, *({"spike_action": a, "spike_factor": 8.0, "spike_window": 8} for a in ("skip", "rollback", "rollback"))]
    )
    early = {"early_stopping": draw.choice(METRICS), "early_stopping_patience": draw.choice([2, 4])}
    plateau = {"lr_scheduler_type": "plateau", "plateau_patience": draw.choice([0, 1])}
    return {
        "learning_rate": 1e-3,
        "eval_steps": draw.choice([1, 1, 2, 3]),
        "save_steps": draw.choice([1, 3, 4, 5]),
        "save_total_limit": draw.choice([1, 2, 3]),
        "logging_steps": draw.choice([1, 2, 4]),
        "save_best": draw.choice([None, *METRICS]) if not final else draw.choice(METRICS),
        "report_to": (),
        **average,
        **final,
        **spikes,
        **(early if draw.random() < 0.3 else {}),
        **(plateau if draw.random() < 0.3 else {}),
    }


def life(folder: Path, tokenizer: Any, config: TrainerConfig, looks: list[float], instants: Instants) -> dict[str, Any]:
    """One life of the run; what has to be equal, where it came to its end."""
    run = Run.start(folder, {"stage": "stopped anywhere"})

    def validate(step: int) -> dict[str, float]:
        instants.pass_one()
        run.sample({"step": step, "completion": "3"})
        return {METRICS[0]: looks[step], METRICS[1]: looks[step] * 7 % 1}

    try:
        ended = train(
            tiny_model(),
            tokenizer,
            Leaping(rows(), batch_tokens=60, seed=1),
            CROSS_ENTROPY,
            config,
            steps=STEPS,
            run=run,
            progress=Silent(),
            speed=Speed(1e12),
            fingerprint={},
            held_out=[Loader(rows(), batch_rows=20, seed=0).packed(range(20))],
            validate=validate,
        )
        result: Any = (ended.steps, ended.tokens, ended.ending)
        folders = [run.path / ended.ending["model"], run.checkpoint_dir(ended.steps) / "model"]
    except NumericsError as error:  # every batch leapt
        result, folders = error.what, []
    finally:
        run.close()
    files = [file for inner in folders for file in sorted(inner.iterdir())]
    lines = [{k: v for k, v in line.items() if not k.startswith(OF_THE_CLOCK)} for line in run.metrics()]
    return {
        "result": result,
        "weights": [hashlib.sha256(file.read_bytes()).hexdigest() for file in files],
        "metrics": json.dumps(lines),  # as text: what is no number equals itself there
        "others": (run.samples(), run.events(), run.best_file.read_text() if run.best_file.exists() else None),
    }


@pytest.mark.slow
# At 12 and 33 a checkpoint of steps that a rollback took back would be gone on from, if it stayed.
@pytest.mark.parametrize("seed", [*range(8), 12, 33])
def test_stopped_anywhere_with_any_settings_a_training_comes_to_the_same_end(
    tokenizer, tmp_path, monkeypatch, instants, seed
):
    draw = random.Random(seed)
    config = TrainerConfig(**drawn_settings(draw))
    # So that every rise above the noise of computing is told.
    monkeypatch.setattr(overfitting, "RISK", 0.5)
    monkeypatch.setattr(overfitting, "SMALLEST_RISE", 0.0)
    monkeypatch.setattr(Leaping, "leaps", tuple(draw.sample(range(9, 28), 3)))
    looks = [round(draw.uniform(1, 3), 2) for _ in range(STEPS + 1)]
    wanted = life(tmp_path / "whole", tokenizer, config, looks, instants)
    most = instants.count
    for number in range(3):
        folder = tmp_path / f"stopped-{number}"
        for _ in range(draw.choice([1, 2, 4])):
            instants.arrange(draw.randint(1, most), draw.choice(["kill", "kill", "ctrl-c"]))
            try:
                life(folder, tokenizer, config, looks, instants)
                break
            except (Killed, Interrupted, KeyboardInterrupt):
                pass
        instants.arrange()
        assert life(folder, tokenizer, config, looks, instants) == wanted
