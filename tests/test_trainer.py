"""The loop: exact under micro-batches, the same after a stop, and never silent about a number that is none."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from thinkling.core import files
from thinkling.core.errors import Interrupted, NumericsError, RunError, Terminated, TerminationRequest
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.data.loader import Loader
from thinkling.data.prepare import TokenRow
from thinkling.engine import checkpoint, measures
from thinkling.engine.gradient import accumulate, mean_loss, micro_batches
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.settings import TrainerConfig
from thinkling.engine.trainer import Speed, train
from thinkling.losses import CROSS_ENTROPY
from thinkling.model.attend import PackedAttend
from thinkling.model.folder import load_folder

CONFIG = TrainerConfig(learning_rate=1e-2, micro_batch_tokens=64)


def rows(n=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, 30, (n,), generator=generator).tolist()
    return [
        TokenRow(
            torch.randint(0, 272, (length,), generator=generator).tolist(),
            [0.0, *torch.randint(0, 3, (length - 2,), generator=generator).float().tolist(), 1.0],
            source=f"rows.jsonl, line {i}",
        )
        for i, length in enumerate(lengths)
    ]


def fp32_gradients(model, batch, config):
    optimizer = MasterAdamW(model, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.0)
    means, _ = accumulate(model, batch, CROSS_ENTROPY, optimizer, config)
    optimizer.close()
    return means["nll"], torch.cat([g.flatten() for g in optimizer.gradients])


@pytest.mark.parametrize("micro_batch_tokens", [1, 40, 100, 10_000])
@pytest.mark.parametrize("head_chunk", [3, 512])
def test_micro_batches_and_chunks_leave_the_whole_batchs_gradient(tiny_model, micro_batch_tokens, head_chunk):
    batch = Loader(rows(), batch_rows=24).packed(range(24))
    # The oracle: full logits, one mean over all counted tokens, autograd.
    hidden = tiny_model(batch.tokens, batch.positions, PackedAttend(batch.starts, way="sdpa"))
    places = batch.targets()
    losses = F.cross_entropy(tiny_model.logits(hidden)[places - 1], batch.tokens[places], reduction="none")
    wanted = (losses * batch.loss_weights[places]).sum() / batch.loss_weights.sum()
    oracle = torch.cat([g.flatten() for g in torch.autograd.grad(wanted, list(tiny_model.parameters()))])

    config = TrainerConfig(micro_batch_tokens=micro_batch_tokens, head_chunk=head_chunk)
    loss, gradient = fp32_gradients(tiny_model, batch, config)
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    torch.testing.assert_close(gradient, oracle, rtol=1e-3, atol=1e-5)
    assert mean_loss(tiny_model, [batch], config) == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("micro_batch_tokens", [130, 10_000])
def test_a_shared_beginning_leaves_the_gradient_of_the_rows_written_out(tiny_model, monkeypatch, micro_batch_tokens):
    instruction = list(range(100, 120))
    given = [dataclasses.replace(r, tokens=instruction + r.tokens, weights=[0.0] * 20 + r.weights) for r in rows(8)]
    batch = Loader(given, batch_rows=8).packed(range(8))
    config = TrainerConfig(micro_batch_tokens=micro_batch_tokens)
    loss, gradient = fp32_gradients(tiny_model, batch, config)
    computed = sum(micro.n_tokens for micro in micro_batches(batch, config, tiny_model.device))
    assert computed < batch.n_tokens
    monkeypatch.setattr("thinkling.engine.gradient.share", lambda part: part)
    plain_loss, plain = fp32_gradients(tiny_model, batch, config)
    assert loss == pytest.approx(plain_loss, rel=1e-5)
    torch.testing.assert_close(gradient, plain, rtol=1e-3, atol=1e-5)


def test_tokens_of_weight_zero_change_nothing(tiny_model):
    given = rows(6)
    batch = Loader(given, batch_rows=6).packed(range(6))
    other = copy.deepcopy(given)
    for row in other:
        row.tokens[-1] = row.tokens[-1]
    extended = [TokenRow([*r.tokens, 5, 6, 7], [*r.weights, 0.0, 0.0, 0.0], r.source) for r in given]
    longer = Loader(extended, batch_rows=6).packed(range(6))
    _, short_gradient = fp32_gradients(tiny_model, batch, CONFIG)
    _, long_gradient = fp32_gradients(tiny_model, longer, CONFIG)
    torch.testing.assert_close(short_gradient, long_gradient, rtol=1e-4, atol=1e-6)


class Watch(Silent):
    """Does something after a given step."""

    def __init__(self, step=None, act=None):
        super().__init__()
        self.step, self.act = step, act

    def advance(self, done, **facts):
        if done == self.step:
            self.act()


def training(
    model,
    tokenizer,
    folder: Path,
    progress=None,
    steps=6,
    data=None,
    fingerprint="hash",
    held_out=(),
    validate=None,
    **changes,
):
    config = CONFIG.model_copy(update={"save_steps": 2, **changes})
    run = Run.start(folder, {"stage": "test"})
    loader = Loader(data or rows(), batch_tokens=100, seed=3)
    try:
        return train(
            model,
            tokenizer,
            loader,
            CROSS_ENTROPY,
            config,
            steps=steps,
            run=run,
            progress=progress or Silent(),
            speed=Speed(1e12),
            fingerprint={"data": fingerprint},
            held_out=held_out,
            validate=validate,
        )
    finally:
        run.close()


def weights_of(folder: Path, step=6):
    model, _ = load_folder(folder / "checkpoints" / f"step-{step}" / "model")
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_stopped_by_ctrl_c_and_resumed_equals_never_stopped_bit_for_bit(tiny_model, tokenizer, tmp_path, dtype):
    tiny_model.to(dtype)
    again = copy.deepcopy(tiny_model)
    training(tiny_model, tokenizer, tmp_path / "whole")
    with pytest.raises(Interrupted, match="step 3"):
        training(
            copy.deepcopy(again), tokenizer, tmp_path / "parted", Watch(3, lambda: os.kill(os.getpid(), signal.SIGINT))
        )
    training(again, tokenizer, tmp_path / "parted")
    assert torch.equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parted"))
    whole, parted = (Run.open(tmp_path / name).metrics() for name in ("whole", "parted"))
    assert [m["loss/train"] for m in whole] == [m["loss/train"] for m in parted]


def test_a_damaged_checkpoint_is_passed_over_aloud_and_the_one_before_it_gives_the_same_end(
    tiny_model, tokenizer, tmp_path
):
    again = copy.deepcopy(tiny_model)
    training(tiny_model, tokenizer, tmp_path / "run")
    wanted = weights_of(tmp_path / "run")
    file = tmp_path / "run/checkpoints/step-6/optimizer/first.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))
    progress = Silent()
    training(again, tokenizer, tmp_path / "run", progress)
    assert any("step-6 is damaged" in note for note in progress.notes)
    assert torch.equal(weights_of(tmp_path / "run"), wanted)


def test_when_every_checkpoint_is_damaged_the_run_stops_and_says_so(tiny_model, tokenizer, tmp_path):
    training(tiny_model, tokenizer, tmp_path / "run")
    for manifest in (tmp_path / "run/checkpoints").glob("*/manifest.json"):
        manifest.write_text("{")
    with pytest.raises(RunError, match="every checkpoint"):
        training(tiny_model, tokenizer, tmp_path / "run")


def test_other_data_under_a_resume_is_refused(tiny_model, tokenizer, tmp_path):
    training(tiny_model, tokenizer, tmp_path / "run", steps=4)
    with pytest.raises(RunError, match="other data"):
        training(tiny_model, tokenizer, tmp_path / "run", data=rows(seed=1))


def test_a_loss_that_is_no_number_names_its_rows_and_keeps_the_last_checkpoint(tiny_model, tokenizer, tmp_path):
    def spoil():
        with torch.no_grad():
            tiny_model.model.norm.weight.fill_(float("nan"))

    with pytest.raises(NumericsError, match=r"rows\.jsonl, line \d+") as caught:
        training(tiny_model, tokenizer, tmp_path / "run", Watch(3, spoil))
    assert "not a number" in caught.value.what
    assert torch.isfinite(weights_of(tmp_path / "run", step=2)).all()


def test_no_space_left_keeps_the_checkpoint_before(tiny_model, tokenizer, tmp_path, monkeypatch):
    from thinkling.engine import checkpoint

    def full_disk():
        def refuse(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoint, "save_hashed", refuse)

    with pytest.raises(RunError, match="no space left"):
        training(tiny_model, tokenizer, tmp_path / "run", Watch(3, full_disk))
    assert [step for step, _ in Run.open(tmp_path / "run").checkpoints()] == [2]
    assert checkpoint.newest(Run.open(tmp_path / "run"), Silent()).step == 2
    assert not list((tmp_path / "run/checkpoints").glob(".*"))


@pytest.fixture
def refused(monkeypatch):
    """Call it, and from then on the disk takes no checkpoint; the names of those that it refused."""
    names, finish = [], files.Attempt.finish

    def refuse(attempt):
        if not attempt.path.name.startswith("step-"):  # the folder of a model within
            return finish(attempt)
        names.append(attempt.path.name)
        attempt._drop()
        raise RunError("there is no space left to write it", where="here", fix="free some")

    return names, lambda: monkeypatch.setattr(files.Attempt, "finish", refuse)


@pytest.mark.parametrize("steps", [3, 6])
def test_what_the_disk_refuses_after_the_training_went_on_is_told(tiny_model, tokenizer, tmp_path, refused, steps):
    names, from_now_on = refused
    with pytest.raises(RunError, match="no space left"):
        training(tiny_model, tokenizer, tmp_path / "run", Watch(steps - 1, from_now_on), save_steps=steps)
    assert names == [f"step-{steps}"]  # no other is begun
    assert Run.open(tmp_path / "run").checkpoints() == []


def test_a_fault_of_the_training_is_not_hidden_by_one_of_the_disk(tiny_model, tokenizer, tmp_path, refused):
    def fail():
        raise ZeroDivisionError

    names, from_now_on = refused
    from_now_on()
    progress = Watch(2, fail)
    with pytest.raises(ZeroDivisionError):
        training(tiny_model, tokenizer, tmp_path / "run", progress)
    assert names == ["step-2"]
    assert any("no space left" in note for note in progress.notes)


def test_only_the_newest_checkpoints_are_kept(tiny_model, tokenizer, tmp_path):
    training(tiny_model, tokenizer, tmp_path / "run", save_steps=1, save_total_limit=3)
    assert [step for step, _ in Run.open(tmp_path / "run").checkpoints()] == [4, 5, 6]


def test_every_step_is_logged_with_place_and_unit(tiny_model, tokenizer, tmp_path):
    training(tiny_model, tokenizer, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    wanted = {"loss/train", "gradient/norm", "learning_rate", "tokens/per_s", "mfu", "memory/gib", "time/step_s"}
    assert all(wanted <= set(line) for line in lines)


def test_training_lowers_the_loss(tiny_model, tokenizer, tmp_path):
    training(tiny_model, tokenizer, tmp_path / "run", steps=40, save_steps=0)
    losses = [m["loss/train"] for m in Run.open(tmp_path / "run").metrics()]
    assert losses[-1] < losses[0] - 1.0  # nats; 24 rows of noise, to be learnt by heart


def test_a_terms_coefficient_scales_its_gradient(tiny_model):
    batch = Loader(rows(4), batch_rows=4).packed(range(4))
    gradients = []
    for coefficient in (1.0, 0.5):
        optimizer = MasterAdamW(tiny_model, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.0)
        loss = dataclasses.replace(CROSS_ENTROPY, coefficients={"nll": coefficient})
        accumulate(tiny_model, batch, loss, optimizer, CONFIG)
        optimizer.close()
        gradients.append(torch.cat([g.flatten() for g in optimizer.gradients]))
    torch.testing.assert_close(gradients[1], gradients[0] / 2, rtol=1e-4, atol=1e-7)


def kill():
    raise ZeroDivisionError


def test_killed_after_a_checkpoint_it_writes_and_counts_no_step_twice(tiny_model, tokenizer, tmp_path):
    again = copy.deepcopy(tiny_model)
    whole = training(tiny_model, tokenizer, tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        training(copy.deepcopy(again), tokenizer, tmp_path / "parted", Watch(3, kill))  # step 3 is logged, 2 is saved
    parted = training(again, tokenizer, tmp_path / "parted")
    assert [m["step"] for m in Run.open(tmp_path / "parted").metrics()] == [1, 2, 3, 4, 5, 6]
    assert parted.tokens == whole.tokens
    assert torch.equal(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parted"))


def test_no_batch_is_taken_that_is_not_trained_on(tiny_model, tokenizer, tmp_path, monkeypatch):
    taken = []
    batches = Loader.__iter__
    monkeypatch.setattr(Loader, "__iter__", lambda self: (taken.append(batch) or batch for batch in batches(self)))
    training(tiny_model, tokenizer, tmp_path / "run", steps=3)
    assert len(taken) == 3  # in RL a batch costs a whole round of sampling


def test_a_gradient_that_is_no_number_names_its_rows_and_changes_no_weight(
    tiny_model, tokenizer, tmp_path, monkeypatch
):
    before = copy.deepcopy(tiny_model.state_dict())
    monkeypatch.setattr(MasterAdamW, "clip", lambda *_: math.inf)
    with pytest.raises(NumericsError, match="gradient of step 1") as caught:
        training(tiny_model, tokenizer, tmp_path / "run")
    assert "rows.jsonl, line" in caught.value.where
    assert all(torch.equal(value, before[name]) for name, value in tiny_model.state_dict().items())


def test_another_fingerprint_under_a_resume_is_refused_by_name(tiny_model, tokenizer, tmp_path):
    training(tiny_model, tokenizer, tmp_path / "run", steps=4)
    with pytest.raises(RunError, match=r"the data has changed .* \(hash, now another hash\)"):
        training(tiny_model, tokenizer, tmp_path / "run", fingerprint="another hash")


def test_resuming_with_other_threads_is_announced(tiny_model, tokenizer, tmp_path, monkeypatch):
    training(tiny_model, tokenizer, tmp_path / "run", steps=4)
    threads, progress = torch.get_num_threads(), Silent()
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    training(tiny_model, tokenizer, tmp_path / "run", progress, steps=4)
    assert any(f"resuming with threads {threads + 1} instead of {threads}" in note for note in progress.notes)


def test_the_rate_rises_over_the_warm_up_share_of_the_steps(tiny_model, tokenizer, tmp_path):
    training(tiny_model, tokenizer, tmp_path / "run", steps=4, warmup_ratio=0.5, lr_scheduler_type="constant")
    rates = [m["learning_rate"] for m in Run.open(tmp_path / "run").metrics()]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.01])


@pytest.mark.parametrize(
    "change",
    [
        # AdamW cancels the size of a gradient, unless epsilon is larger than it.
        {"max_grad_norm": 1e-3, "adam_epsilon": 1.0},
        {"weight_decay": 0.5},
        {"adam_beta1": 0.0},
        {"adam_beta2": 0.999},
    ],
)
def test_every_setting_of_the_optimizer_has_an_effect(tiny_model, tokenizer, tmp_path, change):
    base = {"max_grad_norm": 0.0, "adam_epsilon": change.get("adam_epsilon", 1e-8)}
    again = copy.deepcopy(tiny_model)
    training(tiny_model, tokenizer, tmp_path / "a", steps=4, **base)
    training(again, tokenizer, tmp_path / "b", steps=4, **{**base, **change})
    assert not torch.allclose(weights_of(tmp_path / "a", 4), weights_of(tmp_path / "b", 4), rtol=1e-3)


def test_steps_between_are_not_logged(tiny_model, tokenizer, tmp_path):
    training(tiny_model, tokenizer, tmp_path / "run", logging_steps=4)
    assert [m["step"] for m in Run.open(tmp_path / "run").metrics()] == [4, 6]  # the last one always


def test_a_checkpoint_that_lacks_a_file_is_damaged(tiny_model, tokenizer, tmp_path):
    training(tiny_model, tokenizer, tmp_path / "run", steps=2)
    folder = tmp_path / "run/checkpoints/step-2"
    assert checkpoint.damage(folder) is None
    (folder / "model/tokenizer.json").unlink()
    assert checkpoint.damage(folder) == "model/tokenizer.json is missing"


def test_freed_memory_is_given_back_once_the_heap_has_grown(tiny_model, tokenizer, tmp_path, monkeypatch):
    after, returned = [1.0, 1.2, 1.4, 1.5, 1.9, 2.0, 1.4, 1.9], []
    sizes, steps = iter(after), []
    monkeypatch.setattr(measures, "memory_gib", lambda _: steps.append(next(sizes)) or steps[-1])
    monkeypatch.setattr(measures, "return_freed_memory", lambda: returned.append(len(steps)))
    training(tiny_model, tokenizer, tmp_path / "run", steps=len(after), save_steps=0)
    # Before the first step. 1.4 is more than 1.3 times the 1.0 of the first; the 1.5 after that, from a compact heap,
    # is what such a step needs, so that 1.9 is no growth and 2.0 is. The 1.4 then takes nothing of the 1.5 back.
    assert returned == [0, 3, 6]


def test_a_grader_that_fails_in_the_last_look_costs_no_training_and_the_look_is_made_up_for(
    tiny_model, tokenizer, tmp_path
):
    again = copy.deepcopy(tiny_model)

    def fails_at_the_end(step):
        if step == 4:
            raise ValueError("the grader")
        return {"accuracy/validation": 0.5}

    arguments = {"steps": 4, "save_steps": 0}
    with pytest.raises(ValueError, match="the grader"):
        training(tiny_model, tokenizer, tmp_path / "run", validate=fails_at_the_end, **arguments)
    assert [step for step, _ in Run.open(tmp_path / "run").checkpoints()] == [4]
    training(again, tokenizer, tmp_path / "run", validate=lambda step: {"accuracy/validation": step / 10}, **arguments)
    lines = Run.open(tmp_path / "run").metrics()
    assert [line["step"] for line in lines] == [0, 1, 2, 3, 4]
    assert lines[-1]["accuracy/validation"] == 0.4


def test_killed_before_the_first_checkpoint_nothing_stands_twice(tiny_model, tokenizer, tmp_path):
    again = copy.deepcopy(tiny_model)

    def stop():
        raise RuntimeError("killed")

    look = {"validate": lambda _: {"loss/validation": 1.0}, "save_steps": 0}
    with pytest.raises(RuntimeError):
        training(tiny_model, tokenizer, tmp_path / "run", Watch(2, stop), **look)
    training(again, tokenizer, tmp_path / "run", **look)
    assert [line["step"] for line in Run.open(tmp_path / "run").metrics()] == [0, 1, 2, 3, 4, 5, 6]


def test_a_run_of_one_step_trains(tiny_model, tokenizer, tmp_path):
    before = torch.cat([p.detach().flatten() for p in tiny_model.parameters()])
    training(tiny_model, tokenizer, tmp_path / "run", steps=1)
    assert not torch.equal(weights_of(tmp_path / "run", step=1), before)


def test_sigterm_saves_as_ctrl_c_does_and_is_told_apart(tiny_model, tokenizer, tmp_path):
    with pytest.raises(Terminated, match="step 3"):
        training(tiny_model, tokenizer, tmp_path / "run", Watch(3, lambda: os.kill(os.getpid(), signal.SIGTERM)))
    assert [step for step, _ in Run(tmp_path / "run").checkpoints()] == [2, 3]
    assert Terminated.exit_code == 143
    with pytest.raises(TerminationRequest):
        training(tiny_model, tokenizer, tmp_path / "run", Watch(6, lambda: os.kill(os.getpid(), signal.SIGTERM)))


def test_a_look_that_fails_costs_no_step_whether_or_not_a_checkpoint_was_due(tiny_model, tokenizer, tmp_path):
    again, broken = copy.deepcopy(tiny_model), [3]

    def look(step):
        if step in broken:
            raise ZeroDivisionError
        return {"accuracy/validation": step / 10}

    arguments = {"validate": look, "eval_steps": 3, "save_steps": 0}
    with pytest.raises(ZeroDivisionError):
        training(copy.deepcopy(again), tokenizer, tmp_path / "run", **arguments)
    assert [step for step, _ in Run(tmp_path / "run").checkpoints()] == [3]
    broken.clear()
    training(again, tokenizer, tmp_path / "run", **arguments)
    training(tiny_model, tokenizer, tmp_path / "whole", **arguments)
    told, wanted = (Run(tmp_path / name).metrics() for name in ("run", "whole"))
    names = ("step", "loss/train", "accuracy/validation")
    assert [[line.get(n) for n in names] for line in told] == [[line.get(n) for n in names] for line in wanted]
    assert torch.equal(weights_of(tmp_path / "run"), weights_of(tmp_path / "whole"))


def hang_up():
    """Both come when a terminal is closed: from its shell, and from the system."""
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGHUP)


def test_a_terminal_that_is_closed_saves_as_ctrl_c_does(tiny_model, tokenizer, tmp_path):
    with pytest.raises(Terminated, match="step 3"):
        training(tiny_model, tokenizer, tmp_path / "run", Watch(3, hang_up))
    assert [step for step, _ in Run(tmp_path / "run").checkpoints()] == [2, 3]


def test_ctrl_c_twice_stops_at_once(tiny_model, tokenizer, tmp_path):
    def insist():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        training(tiny_model, tokenizer, tmp_path / "run", Watch(3, insist))
    assert [step for step, _ in Run(tmp_path / "run").checkpoints()] == [2]


def test_under_nohup_a_training_goes_on_when_its_terminal_is_closed(tiny_model, tokenizer, tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ended = training(tiny_model, tokenizer, tmp_path / "run", Watch(3, hang_up))
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert ended.steps == 6


def test_ctrl_c_in_the_last_step_ends_the_recipe_and_keeps_the_training(tiny_model, tokenizer, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        training(tiny_model, tokenizer, tmp_path / "run", Watch(6, lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert Run.open(tmp_path / "run").checkpoints()[-1][0] == 6
