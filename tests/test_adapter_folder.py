"""Adapter folders that somebody else wrote: what peft saved opens with its logits, and traps are refused by name."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from thinkling.cli.main import main
from thinkling.core.errors import ModelError
from thinkling.core.progress import Silent
from thinkling.engine.adapter import load_adapter, save_adapter
from thinkling.engine.tuning import checked, tune
from thinkling.model.attend import PackedAttend
from thinkling.model.decoder import Decoder
from thinkling.model.folder import load_folder
from thinkling.model.names import at_hand, resolve
from thinkling.stages._models import base_of, identity_of, load_model, load_plain

TOKENS = torch.tensor([3, 14, 15, 92, 65, 35, 8, 97, 93])


def logits(model):
    with torch.no_grad():
        return model.logits(model(TOKENS, torch.arange(9), PackedAttend(torch.tensor([0, 9]))))


@pytest.fixture(autouse=True)
def _own_cache_and_fp32(tmp_path, monkeypatch):
    monkeypatch.setenv("THINKLING_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("THINKLING_LANG", "en")
    monkeypatch.setattr("thinkling.stages._models.compute_dtype", lambda device: torch.float32)


# what peft saved ------------------------------------------------------------------------------------------------------


def saved_by_peft(base: Path, folder: Path, config) -> torch.Tensor:
    """An adapter some way from its start, saved by peft; the logits of transformers + peft with it."""
    import peft
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tuned = peft.get_peft_model(model, config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
        tuned.save_pretrained(folder)
        mask = torch.ones(1, 9, dtype=torch.int64)
        return tuned(input_ids=TOKENS.unsqueeze(0), attention_mask=mask).logits[0, -9:]


def lora_config(**settings):
    peft = pytest.importorskip("peft", reason="PEFT is the oracle here: pip install peft")
    pytest.importorskip("transformers")
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.1, **settings}
    return peft.LoraConfig(task_type="CAUSAL_LM", **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True, "target_modules": "all-linear"},
        {"use_dora": True},
        {"target_modules": r".*layers\.1\.(self_attn\.q|mlp\.up)_proj"},
        {"target_modules": ["down_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
        {"init_lora_weights": "gaussian"},
    ],
    ids=str,
)
def test_a_lora_that_peft_saved_opens_with_the_same_logits(tiny_model_dir, tmp_path, settings):
    wanted = saved_by_peft(tiny_model_dir, tmp_path / "theirs", lora_config(**settings))
    model, _, identity = load_model(str(tmp_path / "theirs"), Silent())
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-4)
    base, _, plain = load_model(str(tiny_model_dir), Silent())
    assert not torch.allclose(logits(base), wanted, atol=1e-2)
    assert identity["base"] == str(tiny_model_dir)
    assert identity["hash"].startswith(plain["hash"] + "+")
    torch.testing.assert_close(logits(load_plain(str(tmp_path / "theirs"), Silent())[0]), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["IA3Config", "PromptTuningConfig", "PrefixTuningConfig", "projected"])
def test_other_methods_that_peft_saved_open_with_the_same_logits(tiny_model_dir, tmp_path, kind):
    peft = pytest.importorskip("peft", reason="PEFT is the oracle here: pip install peft")
    pytest.importorskip("transformers")
    settings = {} if kind == "IA3Config" else {"num_virtual_tokens": 4}
    if kind == "projected":
        kind, settings = "PrefixTuningConfig", {**settings, "prefix_projection": True, "encoder_hidden_size": 6}
    config = getattr(peft, kind)(task_type="CAUSAL_LM", **settings)
    wanted = saved_by_peft(tiny_model_dir, tmp_path / "theirs", config)
    torch.testing.assert_close(logits(load_model(str(tmp_path / "theirs"), Silent())[0]), wanted, rtol=1e-4, atol=1e-4)


def test_it_is_made_ours_once_and_again_when_it_or_its_base_has_changed(tiny_model_dir, tmp_path):
    saved_by_peft(tiny_model_dir, tmp_path / "theirs", lora_config())
    first = resolve(str(tmp_path / "theirs"))
    assert resolve(str(tmp_path / "theirs")) == first
    weights = load_file(tiny_model_dir / "model.safetensors")
    save_file({n: t * 2 for n, t in weights.items()}, tiny_model_dir / "model.safetensors")
    assert resolve(str(tmp_path / "theirs")) != first
    load_model(str(tmp_path / "theirs"), Silent())


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"alpha_pattern": {"q_proj": 2}}, "alpha_pattern"),
        ({"bias": "all"}, "bias = 'all'"),
        ({"modules_to_save": ["norm"]}, "modules_to_save"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa'"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
    ],
    ids=str,
)
def test_what_peft_can_do_and_we_cannot_is_refused_by_its_name(tiny_model_dir, tmp_path, settings, named):
    saved_by_peft(tiny_model_dir, tmp_path / "theirs", lora_config(**settings))
    with pytest.raises(ModelError, match=named) as caught:
        load_model(str(tmp_path / "theirs"), Silent())
    assert "merge_and_unload" in caught.value.fix


def hand_made(folder: Path, base: object, tensors=None, **values) -> Path:
    """A folder in peft's form, whatever it holds."""
    folder.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": base, **values}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    some = {
        f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_{x}.weight": torch.ones(
            (2, 48) if x == "A" else (48, 2)
        )
        for i in (0, 1)
        for x in "AB"
    }
    save_file(some if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"peft_type": "LOHA"}, "method LOHA"),
        ({"peft_type": ["LORA"]}, "method"),
        ({"peft_type": None}, "method None"),
        ({"r": "2"}, "r = '2' is no number"),
        ({"r": True}, "r = True is no number"),
        ({"r": 10**400}, "rank"),
        ({"r": -1}, "no number above 0"),
        ({"lora_alpha": None}, "lora_alpha = None"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"lora_bias": True}, "lora_bias"),
        ({"from_the_future": {"a": 1}}, "from_the_future"),
        ({"revision": "v2"}, "revision"),
        ({"base_model_name_or_path": None}, "does not name its base"),
        ({"base_model_name_or_path": ["x"]}, "does not name its base"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "no model"),
    ],
    ids=str,
)
def test_a_config_of_odd_values_is_refused(tiny_model_dir, tmp_path, values, what):
    hand_made(tmp_path / "theirs", str(tiny_model_dir), **values)
    with pytest.raises(ModelError, match=what):
        load_model(str(tmp_path / "theirs"), Silent())


def test_a_folder_that_is_sound_but_for_what_the_others_have_opens(tiny_model_dir, tmp_path):
    hand_made(tmp_path / "theirs", str(tiny_model_dir))
    assert load_model(str(tmp_path / "theirs"), Silent())[0].tuned.method == "lora"
    assert at_hand(str(tmp_path / "theirs"))
    hand_made(tmp_path / "far", "some-org/some-model")
    assert not at_hand(str(tmp_path / "far"))


def test_an_adapter_of_an_adapter_or_of_itself_is_refused(tiny_model_dir, tmp_path):
    one = hand_made(tmp_path / "one", str(tmp_path / "two"))
    hand_made(tmp_path / "two", str(tmp_path / "one"))
    with pytest.raises(ModelError, match="is an adapter itself"):
        load_model(str(one), Silent())
    assert at_hand(str(one))


def test_pickles_and_damaged_files_are_refused(tiny_model_dir, tmp_path):
    folder = hand_made(tmp_path / "theirs", str(tiny_model_dir))
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-9])
    with pytest.raises(ModelError, match="damaged"):
        load_model(str(folder), Silent())
    weights.rename(folder / "adapter_model.bin")
    with pytest.raises(ModelError, match="is a pickle"):
        load_model(str(folder), Silent())
    weights.write_bytes(whole)
    (folder / "adapter_config.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match="damaged"):
        load_model(str(folder), Silent())


def test_lora_on_the_head_or_of_other_shapes_is_refused(tiny_model_dir, tmp_path):
    head = {f"base_model.model.lm_head.lora_{x}.weight": torch.ones(2, 2) for x in "AB"}
    hand_made(tmp_path / "head", str(tiny_model_dir), head)
    with pytest.raises(ModelError, match="'lm_head' is the name of nothing"):
        load_model(str(tmp_path / "head"), Silent())
    wide = {
        f"base_model.model.model.layers.0.mlp.up_proj.lora_{x}.weight": torch.ones((2, 99) if x == "A" else (80, 2))
        for x in "AB"
    }
    hand_made(tmp_path / "wide", str(tiny_model_dir), wide)
    with pytest.raises(ModelError, match=r"shape \(2, 99\) instead of \(2, 48\)"):
        load_model(str(tmp_path / "wide"), Silent())
    hand_made(tmp_path / "empty", str(tiny_model_dir), {})
    with pytest.raises(ModelError, match="everything is frozen"):
        load_model(str(tmp_path / "empty"), Silent())


# folders in our own form ----------------------------------------------------------------------------------------------


@pytest.fixture
def ours(tiny_model, tiny_model_dir, tokenizer, tmp_path) -> Path:
    model, _ = load_folder(tiny_model_dir)
    base = base_of(identity_of(str(tiny_model_dir), tiny_model_dir, model))
    tune(model, checked({"method": "lora", "rank": 2}), base)
    save_adapter(model, tokenizer, tmp_path / "ours")
    return tmp_path / "ours"


def with_record(folder: Path, **changes) -> str:
    file = folder / "tuning.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return str(folder)


def test_an_adapter_is_shown_as_what_it_is(ours, tiny_model_dir, capsys):
    assert main(["models", "show", str(ours)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "adapter lora of" in shown
    assert "in 1 file(s), of the adapter alone" in shown


def test_a_program_that_an_adapter_names_is_not_run(ours, tmp_path, monkeypatch):
    trap = tmp_path / "trap.py"
    trap.write_text(f"import pathlib\npathlib.Path({str(tmp_path / 'sprung')!r}).touch()\n")
    with_record(ours, method=str(trap))
    with pytest.raises(ModelError, match=r"wants the program .*trap\.py to be run") as caught:
        load_model(str(ours), Silent())
    assert not (tmp_path / "sprung").exists()
    assert f"THINKLING_TRUST={trap}" in caught.value.fix
    monkeypatch.setenv("THINKLING_TRUST", f"/elsewhere.py{os.pathsep}{trap}")
    with pytest.raises(AttributeError):  # it is run now, and no method at all
        load_model(str(ours), Silent())
    assert (tmp_path / "sprung").exists()


def test_a_method_of_ones_own_that_this_process_runs_already_opens(tiny_model, tiny_model_dir, tokenizer, tmp_path):
    mine = tmp_path / "mine.py"
    shutil.copy(Path(__file__).parents[1] / "src" / "thinkling" / "tuning" / "bitfit.py", mine)
    model, _ = load_folder(tiny_model_dir)
    tune(model, checked(str(mine)), base_of(identity_of(str(tiny_model_dir), tiny_model_dir, model)))
    save_adapter(model, tokenizer, tmp_path / "adapter")
    assert load_model(str(tmp_path / "adapter"), Silent())[0].tuned.method == str(mine)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"base": {}}, "does not say what it is"),
        ({"base": {"name": "x"}}, "does not say what it is"),
        ({"base": {"name": "/gone/base", "hash": "0"}}, "not where it was"),
        ({"method": "lore"}, "no entry 'lore'"),
        ({"method": 3}, "names no method"),
        ({"rank": 10**12}, "rank 1000000000000 is above the width"),
        ({"alpha": "much"}, "alpha"),
        ({"rank": True}, "switch"),
        ({"unheard_of": 1}, "unknown setting"),
        ({"targets": ["../../etc/passwd"]}, "is the name of nothing"),
    ],
    ids=str,
)
def test_a_record_of_odd_values_is_refused_in_the_adapters_name(ours, changes, what):
    with_record(ours, **changes)
    with pytest.raises(ModelError, match=what) as caught:
        load_model(str(ours), Silent())
    assert str(ours) in caught.value.where


def test_a_method_that_keeps_whole_models_makes_no_adapter(ours):
    base = json.loads((ours / "tuning.json").read_text())["base"]
    (ours / "tuning.json").write_text(json.dumps({"method": "full", "base": base}))
    with pytest.raises(ModelError, match="full is no adapter"):
        load_model(str(ours), Silent())


def test_a_network_beyond_measure_costs_no_memory_before_it_is_refused(ours):
    record = json.loads((ours / "tuning.json").read_text())
    huge = {"method": "prefix", "num_virtual_tokens": 500, "encoder_hidden_size": 10**9, "base": record["base"]}
    for changes, what in (({}, "encoder_hidden_size"), ({"encoder_hidden_size": 2**16}, "it lacks embedding")):
        (ours / "tuning.json").write_text(json.dumps({**huge, **changes}))
        with pytest.raises(ModelError, match=what):
            load_model(str(ours), Silent())


def test_adapters_that_are_each_others_base_are_refused(ours, tiny_model_dir, tmp_path):
    shutil.copytree(ours, tmp_path / "other")
    with_record(ours, base={"name": str(tmp_path / "other"), "hash": "0"})
    with_record(tmp_path / "other", base={"name": str(ours), "hash": "0"})
    with pytest.raises(ModelError, match="names itself as its base"):
        load_model(str(ours), Silent())


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda t: t.to(torch.int8), "made of I8"),
        (lambda t: t * float("nan"), "not a number"),
        (lambda t: t.T.contiguous(), "has the shape"),
    ],
    ids=["integers", "nan", "turned"],
)
def test_tensors_of_another_kind_are_refused(ours, tiny_config, spoil, what):
    file = ours / "adapter_model.safetensors"
    tensors = load_file(file)
    name = "base_model.model.model.layers.1.mlp.up_proj.lora_A.weight"
    save_file({**tensors, name: spoil(tensors[name])}, file)
    with pytest.raises(ModelError, match=what):
        load_adapter(Decoder(tiny_config), ours)


def test_a_pickle_in_place_of_the_tensors_is_refused(ours):
    (ours / "adapter_model.safetensors").rename(ours / "adapter_model.bin")
    with pytest.raises(ModelError, match="is a pickle"):
        load_model(str(ours), Silent())
