"""What watches over a training: selection, early stopping, averages, spikes and memory; all the same under a resume."""

from __future__ import annotations

import copy
import math
import os
import signal
from pathlib import Path

import pytest
import test_trainer
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_trainer import Watch, rows, training, weights_of

from thinkling.core.errors import ConfigError, Interrupted, MachineError, ModelError, NumericsError
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.data.loader import Loader
from thinkling.engine import shortage, trainer
from thinkling.engine.averaging import members
from thinkling.engine.gradient import accumulate
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.reporting import Reports
from thinkling.engine.selection import best_look, looks_without_improvement
from thinkling.engine.settings import TrainerConfig
from thinkling.engine.spikes import SpikeWatch, robust_score
from thinkling.losses import CROSS_ENTROPY
from thinkling.model.folder import load_folder
from thinkling.model.names import resolve

LOSS, ACCURACY = "loss/validation", "accuracy/validation"


def looking(values, metric=LOSS):
    """A validation that finds these, by step from 0."""
    return lambda step: {metric: values[step]}


def both_ways(model, tokenizer, tmp_path, stop_at=3, **arguments):
    """The same training, once without a stop and once with Ctrl-C after a step; the folders of both."""
    again = copy.deepcopy(model)
    training(model, tokenizer, tmp_path / "whole", **arguments)
    ctrl_c = Watch(stop_at, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        training(copy.deepcopy(again), tokenizer, tmp_path / "parted", ctrl_c, **arguments)
    training(again, tokenizer, tmp_path / "parted", **arguments)
    return tmp_path / "whole", tmp_path / "parted"


def told(folder, name="loss/train"):
    return [(line["step"], line.get(name)) for line in Run.open(folder).metrics()]


# selection --------------------------------------------------------------------------------------------------------


def test_the_best_is_the_earliest_of_equals_and_of_accuracy_the_largest():
    looks = [{"step": s, LOSS: x, ACCURACY: x} for s, x in ((2, 3.0), (4, 1.0), (6, 1.0), (8, 3.0))]
    assert best_look(looks, LOSS)["step"] == 4
    assert best_look(looks, ACCURACY)["step"] == 2
    assert best_look([], LOSS) is None


def test_an_improvement_no_larger_than_the_threshold_is_none():
    looks = [{"step": s, LOSS: x} for s, x in ((1, 3.0), (2, 2.9), (3, 2.8), (4, 2.0))]
    assert looks_without_improvement(looks, LOSS, 0.0) == 0
    assert looks_without_improvement(looks[:3], LOSS, 0.5) == 2
    assert looks_without_improvement(looks, LOSS, 0.5) == 0


def test_the_best_checkpoint_is_kept_and_is_the_runs_model(tiny_model, tokenizer, tmp_path):
    values = {0: 0.1, 1: 3.0, 2: 1.0, 3: 1.5, 4: 2.0, 5: 2.0, 6: 3.0}
    arguments = {"save_best": LOSS, "eval_steps": 1, "save_steps": 3, "save_total_limit": 1}
    ended = training(tiny_model, tokenizer, tmp_path / "run", validate=looking(values), **arguments)
    run = Run.open(tmp_path / "run")
    assert [step for step, _ in run.checkpoints()] == [2, 6]
    assert ended.ending["model"] == "checkpoints/step-2/model"
    run.finish("finished", **ended.ending)
    assert resolve(str(run.path)) == resolve(str(run.path / "best")) == run.checkpoint_dir(2) / "model"
    assert resolve(str(run.path / "last")) == run.checkpoint_dir(6) / "model"
    with pytest.raises(ModelError, match="no average"):
        resolve(str(run.path / "average"))


def test_a_run_whose_best_model_is_damaged_falls_back_aloud(tiny_model, tokenizer, tmp_path):
    values = {s: float(s) for s in range(7)}
    ended = training(tiny_model, tokenizer, tmp_path / "run", validate=looking(values), save_best=LOSS, eval_steps=1)
    run = Run.open(tmp_path / "run")
    run.finish("finished", **ended.ending)
    next(run.checkpoint_dir(1).glob("model/*.safetensors")).write_bytes(b"")
    progress = Silent()
    assert resolve(str(run.path), progress) == run.checkpoint_dir(6) / "model"
    assert "is damaged" in progress.notes[0]


def test_training_ends_where_accuracy_no_longer_rises_and_says_so(tiny_model, tokenizer, tmp_path):
    values = {0: 0.9, 1: 0.2, 2: 0.3, 3: 0.3, 4: 0.1, 5: 0.9, 6: 0.9}
    progress = Silent()
    arguments = {"early_stopping": ACCURACY, "early_stopping_patience": 2, "eval_steps": 1}
    ended = training(tiny_model, tokenizer, tmp_path / "run", progress, validate=looking(values, ACCURACY), **arguments)
    assert ended.steps == 4
    assert "has not improved in 2 validations" in ended.ending["stopped_early"]
    assert ended.ending["model"] == "checkpoints/step-4/model"
    assert any("stopped early, after step 4 of 6" in note for note in progress.notes)
    assert Run.open(tmp_path / "run").checkpoints()[-1][0] == 4


@pytest.mark.parametrize("stop_at", [1, 2, 3])
def test_a_resumed_run_stops_early_at_the_same_step_with_the_same_best(tiny_model, tokenizer, tmp_path, stop_at):
    values = {0: 0.1, 1: 3.0, 2: 1.0, 3: 1.5, 4: 2.0, 5: 0.1, 6: 0.1}
    settings = {"early_stopping": LOSS, "early_stopping_patience": 2, "eval_steps": 1, "save_best": LOSS}
    settings |= {"save_steps": 0}
    whole, parted = both_ways(tiny_model, tokenizer, tmp_path, stop_at, validate=looking(values), **settings)
    assert told(whole) == told(parted)
    assert Run.open(whole).metrics()[-1]["step"] == 4
    assert Run.open(parted).best_file.read_text() == Run.open(whole).best_file.read_text()
    assert torch.equal(weights_of(whole, 4), weights_of(parted, 4))
    assert torch.equal(weights_of(whole, 2), weights_of(parted, 2))


def test_a_plateau_lowers_the_rate_and_a_resumed_run_lowers_it_at_the_same_step(tiny_model, tokenizer, tmp_path):
    values = {0: 9.0, 1: 1.0, 2: 1.0, 3: 1.0, 4: 1.0, 5: 1.0, 6: 1.0}
    settings = {"lr_scheduler_type": "plateau", "plateau_patience": 1, "warmup_ratio": 0.0, "eval_steps": 1}
    whole, parted = both_ways(tiny_model, tokenizer, tmp_path, validate=looking(values), **settings)
    # The look at step 1 is the best; those at 2 and 3 are two bad ones, more than patience: step 4 is at half.
    rates = [rate for step, rate in told(whole, "learning_rate") if step]
    assert rates == pytest.approx([0.01, 0.01, 0.01, 0.005, 0.005, 0.0025])
    assert told(parted, "learning_rate") == told(whole, "learning_rate")


@pytest.mark.parametrize(
    "settings", [{"lr_scheduler_type": "plateau"}, {"save_best": LOSS}, {"early_stopping": ACCURACY}]
)
def test_what_reads_validations_is_refused_without_them(tiny_model, tokenizer, tmp_path, settings):
    with pytest.raises(ConfigError, match="which no validation measures"):
        training(tiny_model, tokenizer, tmp_path / "a", eval_steps=1, **settings)
    with pytest.raises(ConfigError, match="set eval_steps"):
        training(tiny_model, tokenizer, tmp_path / "b", validate=looking({}), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"early_stopping_patience": 2},
        {"final_model": "best"},
        {"final_model": "average"},
        {"average": "last"},
        {"average_decay": 0.5},
        {"average": "ema", "average_last": 3},
        {"spike_factor": 5},
        {"spike_action": "rollback"},
    ],
)
def test_settings_without_what_they_need_are_refused(settings):
    with pytest.raises(ValueError):
        TrainerConfig(**settings)


# averages ---------------------------------------------------------------------------------------------------------


def average_of(folder, step=6):
    model, _ = load_folder(folder / "checkpoints" / f"step-{step}" / "average")
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_moving_average_is_that_of_the_formula_and_training_does_not_feel_it(tiny_model, tokenizer, tmp_path):
    again = copy.deepcopy(tiny_model)
    start = torch.cat([p.detach().flatten().double() for p in tiny_model.parameters()])
    training(tiny_model, tokenizer, tmp_path / "plain", save_steps=1, save_total_limit=6)
    training(again, tokenizer, tmp_path / "run", average="ema", average_decay=0.3)
    assert torch.equal(weights_of(tmp_path / "plain"), weights_of(tmp_path / "run"))
    wanted = start
    for step in range(1, 7):
        decay = min(0.3, (1 + step) / (10 + step))  # 2/11 and 3/12 at first, then 0.3
        wanted = decay * wanted + (1 - decay) * weights_of(tmp_path / "plain", step).double()
    torch.testing.assert_close(average_of(tmp_path / "run").double(), wanted, rtol=1e-5, atol=1e-6)


def test_the_average_of_the_last_is_the_mean_of_their_masters(tiny_model, tokenizer, tmp_path):
    again = copy.deepcopy(tiny_model)
    training(tiny_model, tokenizer, tmp_path / "plain", save_steps=1, save_total_limit=6)
    settings = {"average": "last", "average_last": 2, "save_steps": 2, "save_total_limit": 1}
    ended = training(again, tokenizer, tmp_path / "run", final_model="average", **settings)
    wanted = (weights_of(tmp_path / "plain", 4) + weights_of(tmp_path / "plain", 6)) / 2
    torch.testing.assert_close(average_of(tmp_path / "run"), wanted)
    run = Run.open(tmp_path / "run")
    run.finish("finished", **ended.ending)
    assert resolve(str(run.path)) == resolve(str(run.path / "average")) == run.checkpoint_dir(6) / "average"


@pytest.mark.parametrize("settings", [{"average": "ema"}, {"average": "last", "average_last": 3}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_average_is_the_same_under_a_resume(tiny_model, tokenizer, tmp_path, settings, dtype):
    whole, parted = both_ways(tiny_model.to(dtype), tokenizer, tmp_path, **settings)
    assert torch.equal(average_of(whole), average_of(parted))
    assert not torch.equal(average_of(whole), weights_of(whole))


def test_what_an_interruption_saved_is_no_member_of_an_average():
    assert members([10, 13, 20, 30, 31], 33, save_steps=10, last=3) == [20, 30, 33]


# spikes -----------------------------------------------------------------------------------------------------------

SPIKES = {"spike_factor": 8.0, "spike_window": 8}


@given(st.lists(st.floats(0.5, 9.0), min_size=8, max_size=20), st.floats(1e-3, 1e3), st.floats(0.5, 9.0))
def test_a_robust_score_has_no_unit(before, unit, value):
    scaled = robust_score(value * unit, [x * unit for x in before])
    assert scaled == pytest.approx(robust_score(value, before), rel=1e-6, abs=1e-6)


def test_few_steps_and_small_differences_make_no_spike_and_what_is_no_number_always_does():
    watch = SpikeWatch(TrainerConfig(spike_action="skip"))
    assert watch.judge(100.0, 1.0, ["r"]) is None
    assert watch.judge(math.nan, 1.0, ["r"]).what == "loss"
    for _ in range(8):
        watch.accept(2.0, 1.0)
    assert watch.judge(2.2, 1.0, ["r"]) is None  # the usual steps are all alike, and this is a tenth more
    assert watch.judge(2.0, 9.0, ["r"]).what == "gradient norm"
    assert SpikeWatch(TrainerConfig()).judge(math.nan, 1.0, ["r"]) is None


class Leaping(Loader):
    """The losses of some batches, counted from 1 as they are drawn, are a thousand times as large."""

    leaps: tuple[int, ...] = ()
    left_out: tuple[int, ...] = ()
    count = 0

    def __iter__(self):
        for batch in super().__iter__():
            self.count += 1
            batch.columns["leap"] = torch.full_like(batch.loss_weights, 1000.0 if self.count in self.leaps else 1.0)
            if self.count not in self.left_out:
                yield batch

    def state(self):
        return {**super().state(), "count": self.count}

    def restore(self, state):
        super().restore(state)
        self.count = state["count"]


@pytest.fixture
def leaping(monkeypatch):
    """Batches of these numbers leap; those left out are drawn and never seen."""
    plain = trainer.accumulate

    def arrange(*leaps, left_out=()):
        monkeypatch.setattr(Leaping, "leaps", leaps)
        monkeypatch.setattr(Leaping, "left_out", left_out)
        monkeypatch.setattr(test_trainer, "Loader", Leaping)

        def with_leaps(model, batch, loss, optimizer, config, **measured):
            means, micros = plain(model, batch, loss, optimizer, config, **measured)
            factor = float(batch.columns["leap"][0])
            for sums in optimizer.gradients:
                sums.mul_(factor)
            return {term: mean * factor for term, mean in means.items()}, micros

        monkeypatch.setattr(trainer, "accumulate", with_leaps)

    return arrange


LONG = {"steps": 16, "save_steps": 4, "learning_rate": 1e-3, "spike_action": "skip", **SPIKES}


def test_a_run_that_is_to_stop_stops_before_the_update_and_names_the_rows(tiny_model, tokenizer, tmp_path, leaping):
    leaping(11)
    with pytest.raises(NumericsError, match=r"step 11: the .* leapt") as caught:
        training(tiny_model, tokenizer, tmp_path / "run", **{**LONG, "spike_action": "stop"})
    assert "rows.jsonl, line" in caught.value.where
    assert [m["step"] for m in Run.open(tmp_path / "run").metrics()][-1] == 10


def test_without_an_action_a_spike_is_trained_on(tiny_model, tokenizer, tmp_path, leaping):
    leaping(11)
    plain = {k: v for k, v in LONG.items() if not k.startswith("spike")}
    training(tiny_model, tokenizer, tmp_path / "run", **plain)
    assert max(loss for _, loss in told(tmp_path / "run")) > 1000


def test_a_skipped_batch_is_as_if_it_had_never_been_drawn(tiny_model, tokenizer, tmp_path, leaping):
    again = copy.deepcopy(tiny_model)
    leaping(11)
    progress = Silent()
    training(tiny_model, tokenizer, tmp_path / "run", progress, **LONG)
    assert any("this batch is left out (rows rows.jsonl, line" in note for note in progress.notes)
    [event] = Run.open(tmp_path / "run").events()
    assert (event["step"], event["action"], event["leapt_at"]) == (11, "skip", 11)
    # The oracle: the same batches, without the eleventh.
    leaping(left_out=(11,))
    training(again, tokenizer, tmp_path / "oracle", **LONG)
    assert torch.equal(weights_of(tmp_path / "run", 16), weights_of(tmp_path / "oracle", 16))
    assert told(tmp_path / "run") == told(tmp_path / "oracle")


def test_a_rollback_is_as_if_no_batch_since_the_checkpoint_had_been_drawn(tiny_model, tokenizer, tmp_path, leaping):
    again = copy.deepcopy(tiny_model)
    leaping(11)
    settings = {**LONG, "spike_action": "rollback"}
    training(tiny_model, tokenizer, tmp_path / "run", **settings)
    [event] = Run.open(tmp_path / "run").events()
    assert (event["step"], event["action"], event["leapt_at"], event["back_to"]) == (9, "rollback", 11, 8)
    leaping(left_out=(9, 10, 11))
    training(again, tokenizer, tmp_path / "oracle", **settings)
    assert torch.equal(weights_of(tmp_path / "run", 16), weights_of(tmp_path / "oracle", 16))
    assert told(tmp_path / "run") == told(tmp_path / "oracle")
    assert [s for s, _ in told(tmp_path / "run")] == list(range(1, 17))


@pytest.mark.parametrize("action", ["skip", "rollback"])
@pytest.mark.parametrize("stop_at", [9, 10, 11, 13])
def test_spikes_are_dealt_with_in_the_same_way_under_a_resume(
    tiny_model, tokenizer, tmp_path, leaping, action, stop_at
):
    leaping(11, 15)
    settings = {**LONG, "spike_action": action, "save_total_limit": 1, "average": "ema"}
    whole, parted = both_ways(tiny_model, tokenizer, tmp_path, stop_at, **settings)
    assert torch.equal(weights_of(whole, 16), weights_of(parted, 16))
    assert torch.equal(average_of(whole, 16), average_of(parted, 16))
    assert told(whole) == told(parted)
    assert Run.open(whole).events() == Run.open(parted).events()


def test_after_a_rollback_the_best_checkpoint_of_then_is_still_there(tiny_model, tokenizer, tmp_path, leaping):
    leaping(11)
    # The best of all is in step 10, which is taken back; what was the best before stands in step 6, and is again.
    seen = {**dict.fromkeys(range(17), 3.0), 6: 2.0, 10: 1.0}
    values = lambda step: {LOSS: 3.0 if step == 10 and Run(tmp_path / "run").events() else seen[step]}  # noqa: E731
    settings = {**LONG, "spike_action": "rollback", "save_best": LOSS, "eval_steps": 1, "save_total_limit": 1}
    ended = training(tiny_model, tokenizer, tmp_path / "run", validate=values, **settings)
    assert ended.ending["model"] == "checkpoints/step-6/model"
    load_folder(tmp_path / "run" / ended.ending["model"])


def test_what_a_rollback_took_back_is_never_gone_on_from(tiny_model, tokenizer, tmp_path, leaping):
    leaping(11)
    settings = {**LONG, "spike_action": "rollback"}
    again, ctrl_c = copy.deepcopy(tiny_model), lambda: os.kill(os.getpid(), signal.SIGINT)
    training(tiny_model, tokenizer, tmp_path / "whole", **settings)
    with pytest.raises(Interrupted):  # in step 10, which the spike in 11 takes back
        training(copy.deepcopy(again), tokenizer, tmp_path / "run", Watch(10, ctrl_c), **settings)
    with pytest.raises(Interrupted):  # in step 9, the first one after it went back to 8
        training(copy.deepcopy(again), tokenizer, tmp_path / "run", Watch(9, ctrl_c), **settings)
    progress = Silent()
    training(again, tokenizer, tmp_path / "run", progress, **settings)
    assert any("going on from step 9 " in note for note in progress.notes)
    assert Run.open(tmp_path / "run").events() == Run.open(tmp_path / "whole").events()
    assert told(tmp_path / "run") == told(tmp_path / "whole")
    assert torch.equal(weights_of(tmp_path / "run", 16), weights_of(tmp_path / "whole", 16))


def test_a_rollback_starts_the_curves_of_other_programs_anew(tiny_model, tokenizer, tmp_path, leaping):
    leaping(11)
    training(tiny_model, tokenizer, tmp_path / "run", **{**LONG, "spike_action": "rollback"})
    assert len(list(Run.open(tmp_path / "run").logger_dir("tensorboard").iterdir())) == 2


def test_a_rollback_does_not_bring_back_the_size_that_was_too_large(
    tiny_model, tokenizer, tmp_path, leaping, monkeypatch
):
    leaping(11)
    settings = {**LONG, "spike_action": "rollback", "micro_batch_tokens": 4096}
    training(tiny_model, tokenizer, tmp_path / "run", Watch(9, lambda: starved(monkeypatch, 40)), **settings)
    kinds = [event["event"] for event in Run.open(tmp_path / "run").events()]
    assert kinds[0] == "out of memory"
    assert kinds.index("spike") == len(kinds) - 1  # the steps done again found the smaller size


def test_a_validation_that_is_no_number_is_never_the_best():
    looks = [{"step": s, LOSS: x, ACCURACY: x} for s, x in ((1, math.nan), (2, 3.0), (3, 2.0))]
    assert (best_look(looks, LOSS)["step"], best_look(looks, ACCURACY)["step"]) == (3, 2)


def test_what_reads_validations_or_checkpoints_on_the_way_is_refused_where_the_run_is_too_short(
    tiny_model, tokenizer, tmp_path
):
    look = looking(dict.fromkeys(range(7), 1.0))
    with pytest.raises(ConfigError, match="eval_steps 6 is not below the 6 steps") as caught:
        training(tiny_model, tokenizer, tmp_path / "a", validate=look, eval_steps=6, lr_scheduler_type="plateau")
    assert "lower eval_steps" in caught.value.fix
    with pytest.raises(ConfigError, match="save_steps 6 is not below the 6 steps"):
        training(tiny_model, tokenizer, tmp_path / "b", average="last", save_steps=6)


def test_a_logger_that_is_slow_to_close_finds_everything_saved(tiny_model, tokenizer, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(Reports, "close", lambda self: saved.append(self._run.checkpoints()[-1][0]))
    values = {0: 9.0, 1: 1.0, 2: 1.0, 3: 1.0}
    settings = {"early_stopping": LOSS, "early_stopping_patience": 2, "eval_steps": 1, "report_to": ()}
    training(tiny_model, tokenizer, tmp_path / "run", validate=looking(values), **settings)
    assert saved == [3]


def test_when_every_batch_leaps_it_is_not_the_rows(tiny_model, tokenizer, tmp_path, leaping):
    leaping(*range(11, 40))
    for action in ("skip", "rollback"):
        with pytest.raises(NumericsError, match="time in a row") as caught:
            training(copy.deepcopy(tiny_model), tokenizer, tmp_path / action, **{**LONG, "spike_action": action})
        assert "lower learning_rate" in caught.value.fix


# memory -----------------------------------------------------------------------------------------------------------


def starved(monkeypatch, most_tokens, error=None):
    """Forward passes of more tokens than this raise what torch raises on a CPU."""
    from thinkling.model.decoder import Decoder

    error = error or RuntimeError(
        "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    )
    plain = Decoder.forward

    def forward(self, tokens, *arguments):
        if len(tokens) > most_tokens and torch.is_grad_enabled():
            raise error
        return plain(self, tokens, *arguments)

    monkeypatch.setattr(Decoder, "forward", forward)


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), None]
)
def test_a_step_that_ran_out_of_memory_is_done_again_in_smaller_parts_with_the_same_gradient(
    tiny_model, tokenizer, tmp_path, monkeypatch, error
):
    again, third = copy.deepcopy(tiny_model), copy.deepcopy(tiny_model)
    # Rows of at most 29 tokens, 100 a step. 4096 is halved to 64 before anything changes: then no part is above 60.
    training(tiny_model, tokenizer, tmp_path / "enough", micro_batch_tokens=4096)
    training(third, tokenizer, tmp_path / "small", micro_batch_tokens=32)
    starved(monkeypatch, 40, error)
    progress = Silent()
    training(again, tokenizer, tmp_path / "starved", progress, micro_batch_tokens=4096)
    torch.testing.assert_close(weights_of(tmp_path / "starved"), weights_of(tmp_path / "enough"), rtol=1e-3, atol=1e-4)
    assert torch.equal(weights_of(tmp_path / "starved"), weights_of(tmp_path / "small"))  # nothing of the failed try
    events = Run.open(tmp_path / "starved").events()
    assert events[-1] == {"step": 1, "event": "out of memory", "micro_batch_tokens": 32}
    assert any("going on with micro_batch_tokens 32, the gradient stays the same" in note for note in progress.notes)


def test_memory_that_runs_out_in_the_backward_pass_leaves_nothing_in_the_sums(tiny_model, monkeypatch):
    batch = Loader(rows(), batch_rows=24).packed(range(24))
    optimizer = MasterAdamW(tiny_model, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.0)
    config = TrainerConfig(micro_batch_tokens=32)
    accumulate(tiny_model, batch, CROSS_ENTROPY, optimizer, config)
    wanted = [g.clone() for g in optimizer.gradients]
    optimizer.forget()
    collect, calls = MasterAdamW.add, []

    def fails_in_the_middle(self, parameter, gradient):
        calls.append(1)
        if len(calls) == 30:
            raise MemoryError
        collect(self, parameter, gradient)

    monkeypatch.setattr(MasterAdamW, "add", fails_in_the_middle)
    with pytest.raises(MemoryError):
        accumulate(tiny_model, batch, CROSS_ENTROPY, optimizer, config)
    optimizer.forget()
    accumulate(tiny_model, batch, CROSS_ENTROPY, optimizer, config)
    assert all(torch.equal(a, b) for a, b in zip(optimizer.gradients, wanted, strict=True))
    optimizer.close()


def test_a_smaller_micro_batch_stays_under_a_resume(tiny_model, tokenizer, tmp_path, monkeypatch):
    starved(monkeypatch, 60)
    whole, parted = both_ways(tiny_model, tokenizer, tmp_path, micro_batch_tokens=4096)
    assert torch.equal(weights_of(whole), weights_of(parted))
    assert len(Run.open(parted).events()) == len(Run.open(whole).events())


def test_memory_that_is_too_little_for_one_row_ends_the_run_with_the_mend(tiny_model, tokenizer, tmp_path, monkeypatch):
    starved(monkeypatch, 5)
    with pytest.raises(MachineError, match="one row at a time, of up to") as caught:
        training(tiny_model, tokenizer, tmp_path / "run", micro_batch_tokens=4096)
    assert "rows.jsonl, line" in caught.value.where
    assert "cutoff_len" in caught.value.fix


def test_memory_that_runs_out_in_a_validation_is_told_with_the_mend(tiny_model, tokenizer, tmp_path):
    def greedy(step):
        raise MemoryError

    with pytest.raises(MachineError, match="memory ran out in the validation after step 0") as caught:
        training(tiny_model, tokenizer, tmp_path / "run", validate=greedy)
    assert "generate_rows" in caught.value.fix


def test_other_errors_are_no_shortage_of_memory(tiny_model, tokenizer, tmp_path, monkeypatch):
    starved(monkeypatch, 40, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        training(tiny_model, tokenizer, tmp_path / "run", micro_batch_tokens=4096)
    assert not shortage.is_shortage(ValueError("out of memory"))


def test_memory_that_runs_out_in_the_update_is_not_tried_again(tiny_model, tokenizer, tmp_path, monkeypatch):
    def fails(*_):
        raise MemoryError

    monkeypatch.setattr(MasterAdamW, "step", fails)
    with pytest.raises(MachineError, match="were updated"):
        training(tiny_model, tokenizer, tmp_path / "run")


# the log ----------------------------------------------------------------------------------------------------------


def test_a_leap_between_two_lines_of_metrics_is_told_with_the_next(tiny_model, tokenizer, tmp_path, leaping):
    leaping(6)
    arguments = {"steps": 8, "logging_steps": 4, "save_steps": 2, "learning_rate": 1e-3}
    whole, parted = both_ways(tiny_model, tokenizer, tmp_path, 6, **arguments)
    [first, second] = Run.open(whole).metrics()
    assert (first["step"], second["step"]) == (4, 8)
    assert first["loss/train"] <= first["loss/train_max"] < 100
    assert second["loss/train_max"] > 1000 > second["loss/train"]
    assert told(parted, "loss/train_max") == told(whole, "loss/train_max")
    assert told(parted, "gradient/norm_max") == told(whole, "gradient/norm_max")


def test_a_run_that_logs_every_step_has_no_largest(tiny_model, tokenizer, tmp_path: Path):
    training(tiny_model, tokenizer, tmp_path / "run")
    assert not any("loss/train_max" in line for line in Run.open(tmp_path / "run").metrics())
