"""Tuning within the stage sft: told before, trained alone, saved small, resumed exactly, opened by the run folder."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from thinkling.core.errors import ConfigError, Interrupted, ModelError
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.engine.checkpoint import optimizer_state
from thinkling.engine.coverage import coverage, full_work
from thinkling.engine.plan import training_memory
from thinkling.engine.tuning import checked
from thinkling.model.attend import PackedAttend
from thinkling.model.config import ModelConfig
from thinkling.model.names import resolve
from thinkling.stages import _sft_plan, evaluate, sft
from thinkling.stages._models import load_model, load_plain

SMOLLM2 = ModelConfig("llama", 49152, 576, 30, 9, 3, 64, 1536, 8192)
LORA = {"method": "lora", "rank": 4, "alpha": 8}


class Notes(Silent):
    """Keeps what was said, and acts after a step."""

    def __init__(self, step=None, act=None):
        super().__init__()
        self.said, self.step, self.act = [], step, act

    def note(self, text):
        self.said.append(text)

    def advance(self, done, **facts):
        if done == self.step:
            self.act()


def run_stage(stage, folder, settings, progress=None):
    config = stage.Config(**settings)
    run = Run.start(folder, config.model_dump(mode="json"))
    try:
        stage.run(config, run, progress or Silent(), {})
    finally:
        run.close()
    return run


@pytest.fixture
def settings(tiny_model_dir):
    return {
        "model": str(tiny_model_dir),
        "data": [{"task": "sums", "level": 1, "n": 20}],
        "batch_tokens": 800,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "generate_rows": 2,
        "max_new_tokens": 4,
        "validation_rows": 6,
        "tuning": LORA,
    }


def hidden(model):
    tokens = torch.arange(20)
    with torch.no_grad():
        return model(tokens, tokens, PackedAttend(torch.tensor([0, 20])))


def newest(run):
    return run.checkpoints()[-1][1]


def test_an_adapter_is_trained_saved_alone_and_opened_by_the_run_folder(settings, tmp_path):
    run = run_stage(sft, tmp_path / "lora", settings)
    losses = [m["loss/validation"] for m in run.metrics() if "loss/validation" in m]
    assert losses[-1] < losses[0]
    assert not (newest(run) / "model").exists()
    adapter = newest(run) / "adapter"
    state = optimizer_state(newest(run))
    # 2 layers * 7 matrices * 2 factors, each with its master and two moments
    assert len(state) == 3 * 2 * 7 * 2
    assert all("lora_" in name for name in state)
    masters = {n.removeprefix("master/"): t for n, t in state.items() if n.startswith("master/")}
    saved = load_file(adapter / "adapter_model.safetensors")
    assert {f"base_model.model.{name}.weight" for name in masters} == set(saved)
    assert all(torch.equal(tensor, saved[f"base_model.model.{name}.weight"]) for name, tensor in masters.items())

    for name in (run.path, newest(run), adapter):
        model, _, identity = load_model(str(name), Silent())
        assert model.tuned.method == "lora"
        assert identity["base"] == str(tmp_path / "tiny")
    base, _, before = load_model(settings["model"], Silent())
    assert identity["hash"].startswith(before["hash"] + "+")
    merged, _, _ = load_plain(str(run.path), Silent())
    assert merged.tuned is None
    tolerance = 1e-4 if merged.dtype == torch.float32 else 2.0**-4
    torch.testing.assert_close(hidden(merged), hidden(model), rtol=tolerance, atol=tolerance)
    assert not torch.equal(hidden(model), hidden(base))


def test_a_run_folder_of_an_adapter_can_be_evaluated(settings, tmp_path):
    run_stage(sft, tmp_path / "lora", settings)
    asked = {"model": str(tmp_path / "lora"), "tasks": [{"task": "sums", "level": 1, "n": 2}], "max_new_tokens": 4}
    result = run_stage(evaluate, tmp_path / "eval", asked).evaluation()
    assert result["model"]["base"] == settings["model"]


@pytest.mark.parametrize(
    "tuning",
    [LORA, {**LORA, "dora": True, "dropout": 0.3}, {**LORA, "dropout": 0.3}, {"method": "freeze", "layers": 1}],
    ids=str,
)
def test_stopped_and_resumed_is_as_never_stopped(settings, tmp_path, tuning):
    import os
    import signal

    settings = {**settings, "tuning": tuning, "save_steps": 1, "generate_rows": 0}
    straight = run_stage(sft, tmp_path / "straight", settings)
    stop = Notes(2, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Interrupted):
        run_stage(sft, tmp_path / "stopped", settings, stop)
    stopped = run_stage(sft, tmp_path / "stopped", settings)
    first, second = (optimizer_state(newest(run)) for run in (straight, stopped))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_frozen_part_has_no_master_and_the_model_is_saved_whole(settings, tmp_path):
    run = run_stage(sft, tmp_path / "freeze", {**settings, "tuning": {"method": "freeze", "layers": 1}})
    names = {name.partition("/")[2] for name in optimizer_state(newest(run))}
    assert names
    assert not any("embed" in name or "layers.0." in name for name in names)
    trained, base = (load_model(str(name), Silent())[0].state_dict() for name in (run.path, settings["model"]))
    assert {name for name in base if not torch.equal(base[name], trained[name])} <= names


def test_training_goes_on_from_an_adapter_folded_into_its_base(settings, tmp_path):
    run_stage(sft, tmp_path / "first", settings)
    notes = Notes()
    second = run_stage(sft, tmp_path / "second", {**settings, "model": str(tmp_path / "first")}, notes)
    assert any("folded into its base" in text for text in notes.said)
    model, _, identity = load_model(str(second.path), Silent())  # the base of the base is found, too
    assert identity["base"] == str(resolve(str(tmp_path / "first")))
    assert identity["hash"].count("+") == 2
    assert model.tuned.method == "lora"


def test_an_adapter_whose_base_has_changed_is_refused(settings, tmp_path):
    run_stage(sft, tmp_path / "lora", settings)
    other = run_stage(sft, tmp_path / "full", {**settings, "tuning": {"method": "full"}})
    shutil.copy(newest(other) / "model" / "model.safetensors", tmp_path / "tiny" / "model.safetensors")
    with pytest.raises(ModelError, match="the base model has changed") as caught:
        load_model(str(tmp_path / "lora"), Silent())
    assert "bring the base model back" in caught.value.fix


def test_a_damaged_adapter_is_passed_over_for_the_one_before(settings, tmp_path):
    run = run_stage(sft, tmp_path / "lora", {**settings, "save_steps": 2})
    file = newest(run) / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    notes = Notes()
    assert resolve(str(run.path), notes) == run.checkpoint_dir(2) / "adapter"
    assert any("step-4" in text for text in notes.said)
    with pytest.raises(ModelError, match="damaged"):
        resolve(str(newest(run)))


def test_an_adapter_that_says_nothing_of_itself_is_told_what_to_do(tmp_path):
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match="without the config and tokenizer of its base") as caught:
        resolve(str(tmp_path))
    assert "peft" in caught.value.fix


# the account before training ------------------------------------------------------------------------------------------


def test_the_plan_tells_coverage_share_scale_and_advice(settings, tmp_path):
    notes = Notes()
    run = run_stage(sft, tmp_path / "lora", {**settings, "tuning": {**LORA, "rank": 2, "alpha": 20}}, notes)
    plan = run.plan()
    # rank 2 on matrices 48x48, 48x16, 48x16, 48x48, 48x80 twice, 80x48; 2 layers
    trained = 2 * 2 * (96 + 64 + 64 + 96 + 128 + 128 + 128)
    assert plan["trainable_parameters"] == trained
    assert plan["tuning"]["share_trained"] == trained / plan["parameters"]
    assert plan["tuning"]["facts"] == {"rank": 2, "scale": 10.0}
    assert {(c["kind"], c["count"], c["of"]) for c in plan["tuning"]["covered"]} == {
        (f"{kind}_proj", 2, 2) for kind in ("q", "k", "v", "o", "gate", "up", "down")
    }
    assert plan["tuning"]["advice"]
    assert plan["tuning"]["advice"][0] in notes.said
    words = _sft_plan.plan_in_words(plan)
    assert words["trainable"].startswith(f"{trained:,} of {plan['parameters']:,} parameters")
    assert words["covers"] == "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj in 2 of 2 layers"
    assert (words["rank"], words["scale"]) == ("2", "10")


def test_what_a_larger_rank_costs_is_told_beside_the_usual_one(settings, monkeypatch):
    monkeypatch.setattr(_sft_plan, "USUAL_RANK", 4)
    at = {}
    for rank in (4, 16):
        config = sft.Config(**{**settings, "tuning": {**LORA, "rank": rank}})
        at[rank] = sft.make_ready(config, config.model, Silent())
    assert "at_usual_rank" not in at[4].plan["tuning"]
    told, peak = at[16].plan["tuning"]["at_usual_rank"], at[4].peak_flops / at[16].peak_flops
    assert told == {
        "rank": 4,
        "peak_gib": at[4].plan["memory_gib"]["peak"],
        "minutes": pytest.approx(at[4].plan["minutes"] * peak),  # the machine is measured for each plan
    }
    more = at[16].plan["minutes"] / told["minutes"] - 1
    assert more > 0.01
    words = _sft_plan.plan_in_words(at[16].plan)
    assert words["cost of the rank"].endswith(f"{100 * more:.1f} % of time more than rank 4")


def test_a_rank_above_the_width_is_refused_before_the_weights_are_loaded(settings, tmp_path):
    next(tmp_path.glob("tiny/*.safetensors")).unlink()
    for tell in (lambda c: sft.promise(c, Silent()), lambda c: sft.make_ready(c, c.model, Silent())):
        with pytest.raises(ConfigError, match="rank 40 is above the width 16 of k_proj"):
            tell(sft.Config(**{**settings, "tuning": {"method": "lora", "rank": 40}}))


@pytest.mark.parametrize("tuning", [{"method": "lore"}, {"method": "lora", "rnak": 3}, {"rank": 3}, {}, 3, None])
def test_a_tuning_that_is_none_is_refused_when_the_recipe_is_read(settings, tuning):
    with pytest.raises(ConfigError) as caught:
        sft.Config(**{**settings, "tuning": tuning})
    assert caught.value.fix


def test_a_bare_name_is_a_method_with_its_defaults_written_out(settings):
    config = sft.Config(**{**settings, "tuning": "lora"})
    assert config.tuning["rank"] == 16
    assert config == sft.Config(**config.model_dump(mode="json"))
    json.dumps(config.tuning)


def test_the_work_of_full_fine_tuning_is_read_off_the_model():
    found = coverage(SMOLLM2, checked("full"))
    assert found.work == full_work(SMOLLM2)
    assert found.trained == found.parameters == SMOLLM2.n_parameters == 134_515_008
    assert found.backward_layers == 30


def test_lora_on_all_matrices_of_smollm2_is_counted_by_hand():
    found = coverage(SMOLLM2, checked("lora"))
    # in + out of q, k, v, o, gate, up, down
    assert found.trained == found.added == 30 * 16 * (1152 + 768 + 768 + 1152 + 2112 + 2112 + 2112)
    full = full_work(SMOLLM2)
    assert found.work.per_token == full.per_token * 2 / 3 + 6 * found.trained
    assert found.work.per_prediction == full.per_prediction * 2 / 3
    assert not found.head


def test_freezing_the_lower_half_halves_the_depth_of_the_backward_pass():
    found = coverage(SMOLLM2, checked({"method": "freeze", "layers": 15}))
    assert found.backward_layers == 15
    # a third forward, a third * 1/2 for inputs, a third * 1/2 for weights
    assert found.work.per_token == pytest.approx(full_work(SMOLLM2).per_token * 2 / 3)
    deep = coverage(SMOLLM2, checked({"method": "freeze", "layers": 15, "embedding": False}))
    assert deep.backward_layers == 30


def test_memory_is_foreseen_for_what_is_trained_alone():
    kwargs = {"micro_batch_tokens": 1024, "longest": 256, "head_chunk": 512}
    whole = training_memory(SMOLLM2, torch.bfloat16, **kwargs)
    same = training_memory(SMOLLM2, torch.bfloat16, **kwargs, coverage=coverage(SMOLLM2, checked("full")))
    lora = training_memory(SMOLLM2, torch.bfloat16, **kwargs, coverage=coverage(SMOLLM2, checked("lora")))
    half = {"method": "freeze", "layers": 15}
    frozen = training_memory(SMOLLM2, torch.bfloat16, **kwargs, coverage=coverage(SMOLLM2, checked(half)))
    assert same == whole
    assert lora.masters == pytest.approx(whole.masters * 4_884_480 / 134_515_008)
    assert lora.peak < frozen.peak < whole.peak
    assert frozen.activations == whole.activations / 2


def test_the_average_of_an_adapter_is_the_mean_of_its_masters_in_an_adapter_folder(settings, tmp_path):
    asked = {**settings, "save_steps": 1, "save_total_limit": 4, "average": "last", "average_last": 3}
    run = run_stage(sft, tmp_path / "lora", asked)
    states = [optimizer_state(run.checkpoint_dir(step)) for step in (2, 3, 4)]
    average = resolve(str(run.path / "average"))
    saved = load_file(average / "adapter_model.safetensors")
    masters = [name.removeprefix("master/") for name in states[0] if name.startswith("master/")]
    assert {f"base_model.model.{name}.weight" for name in masters} == set(saved)
    for name in masters:
        mean = sum(state[f"master/{name}"] for state in states) / 3
        torch.testing.assert_close(saved[f"base_model.model.{name}.weight"], mean)
    model, _, _ = load_model(str(run.path / "average"), Silent())
    last, _, _ = load_model(str(run.path / "last"), Silent())
    assert model.tuned.method == "lora"
    assert not torch.equal(hidden(model), hidden(last))


@pytest.mark.parametrize("tuning", [LORA, {"method": "prefix", "encoder_hidden_size": 8}], ids=str)
def test_a_moving_average_of_an_adapter_can_be_the_runs_model_and_survives_a_stop(settings, tmp_path, tuning):
    import os
    import signal

    asked = {**settings, "average": "ema", "final_model": "average", "generate_rows": 0, "tuning": tuning}
    straight = run_stage(sft, tmp_path / "straight", asked)
    with pytest.raises(Interrupted):
        run_stage(sft, tmp_path / "stopped", asked, Notes(2, lambda: os.kill(os.getpid(), signal.SIGINT)))
    stopped = run_stage(sft, tmp_path / "stopped", asked)
    assert resolve(str(straight.path)).name == "average"
    first, second = (load_file(resolve(str(run.path)) / "adapter_model.safetensors") for run in (straight, stopped))
    assert all(torch.equal(first[name], second[name]) for name in first)
    load_model(str(straight.path), Silent())
