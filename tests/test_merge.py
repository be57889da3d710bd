"""`thinkling merge`: a plain folder with the adapter's logits that transformers opens, or nothing."""

from __future__ import annotations

import json
import os

import pytest
import torch

from thinkling.cli.main import main
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.model.attend import PackedAttend
from thinkling.model.folder import load_folder, save_folder
from thinkling.stages import sft
from thinkling.stages._models import load_model

TOKENS = torch.arange(20)
BIG_STEPS = {"learning_rate": 1e-1, "max_steps": 2, "batch_tokens": 800, "validation_rows": 0, "generate_rows": 0}


def logits(model):
    with torch.no_grad():
        return model.logits(model(TOKENS, TOKENS, PackedAttend(torch.tensor([0, 20])))).float()


@pytest.fixture(autouse=True)
def _english(monkeypatch):
    monkeypatch.setenv("THINKLING_LANG", "en")


def trained(folder, base, tuning):
    """A run folder of two large steps."""
    data = [{"task": "sums", "level": 1, "n": 20}]
    config = sft.Config(**BIG_STEPS, model=str(base), data=data, tuning=tuning)
    run = Run.start(folder, config.model_dump(mode="json"))
    sft.run(config, run, Silent(), {})
    run.close()
    return folder


@pytest.mark.parametrize(
    "tuning", [{"method": "lora", "rank": 4}, {"method": "lora", "rank": 4, "dora": True}, "bitfit", "ia3"], ids=str
)
def test_a_merged_run_has_the_adapters_logits_here_and_in_transformers(tiny_model_dir, tmp_path, capsys, tuning):
    run = trained(tmp_path / "run", tiny_model_dir, tuning)
    assert main(["merge", str(run), "--out", str(tmp_path / "merged")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'merged'}\n"
    adapted, before = load_model(str(run), Silent(), as_stored=True)[0], load_folder(tiny_model_dir)[0]
    merged, _ = load_folder(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), logits(adapted), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(merged), logits(before), atol=1e-2)
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS.unsqueeze(0)).logits[0], logits(merged), rtol=1e-4, atol=1e-4)


def test_the_merged_folder_has_the_dtype_of_the_bases_files(tiny_model, tokenizer, tmp_path):
    for name, dtype in (("torch.float32", torch.float32), ("torch.bfloat16", torch.bfloat16)):
        base = tmp_path / f"base-{name}"
        save_folder(tiny_model.to(dtype), tokenizer, base)
        run = trained(tmp_path / name, base, "ia3")
        assert main(["merge", str(run), "--out", str(tmp_path / f"merged-{name}")]) == 0
        assert str(load_folder(tmp_path / f"merged-{name}")[0].dtype) == name
        assert f"torch.{json.loads((tmp_path / f'merged-{name}' / 'config.json').read_text())['dtype']}" == name


def test_in_32_bit_floats_nothing_is_rounded_off(tiny_model, tokenizer, tmp_path):
    save_folder(tiny_model.bfloat16(), tokenizer, tmp_path / "base")
    run = trained(tmp_path / "run", tmp_path / "base", {"method": "lora", "rank": 4})
    assert main(["merge", str(run), "--out", str(tmp_path / "rounded")]) == 0
    assert main(["merge", str(run), "--out", str(tmp_path / "exact"), "--float32"]) == 0
    wanted = logits(load_model(str(run), Silent(), as_stored=True)[0].float())
    rounded, exact = (load_folder(tmp_path / name)[0] for name in ("rounded", "exact"))
    assert exact.dtype == torch.float32
    torch.testing.assert_close(logits(exact), wanted, rtol=1e-4, atol=1e-4)
    errors = [(logits(one.float()) - wanted).abs().max() for one in (rounded, exact)]
    assert errors[0] > 10 * errors[1]


def test_whoever_may_read_the_folder_may_read_the_weights(tiny_model, tokenizer, tmp_path):
    before = os.umask(0o022)
    try:
        save_folder(tiny_model, tokenizer, tmp_path / "open")
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "open").iterdir()}
    assert modes["model.safetensors"] == modes["config.json"] == 0o644


def test_a_run_of_whole_models_is_written_as_it_is(tiny_model_dir, tmp_path, capsys):
    run = trained(tmp_path / "run", tiny_model_dir, "full")
    assert main(["merge", str(run), "--out", str(tmp_path / "copy")]) == 0
    assert "is a plain model" in capsys.readouterr().err
    model = next(run.glob("checkpoints/*/model"))
    assert torch.equal(logits(load_folder(tmp_path / "copy")[0]), logits(load_folder(model)[0]))


@pytest.mark.parametrize(
    "tuning",
    [
        {"method": "prefix", "encoder_hidden_size": 8},
        {"method": "prompt"},
        {"method": "bottleneck", "bottleneck_width": 8},
    ],
    ids=str,
)
def test_what_cannot_be_folded_in_is_refused_by_name_and_writes_nothing(tiny_model_dir, tmp_path, capsys, tuning):
    run = trained(tmp_path / "run", tiny_model_dir, tuning)
    assert main(["merge", str(run), "--out", str(tmp_path / "merged")]) == 2
    assert f"what {tuning['method']} trained cannot be folded" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_a_folder_with_something_in_it_is_left_alone(tiny_model_dir, tmp_path, capsys):
    before = {file: file.read_bytes() for file in tiny_model_dir.iterdir()}
    assert main(["merge", str(tiny_model_dir), "--out", str(tiny_model_dir)]) == 2
    assert "something in" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in tiny_model_dir.iterdir()} == before
    file = tmp_path / "file"
    file.write_text("mine")
    assert main(["merge", str(tiny_model_dir), "--out", str(file)]) == 2
    assert file.read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert main(["merge", str(tiny_model_dir), "--out", str(tmp_path / "empty")]) == 0
    assert load_folder(tmp_path / "empty")
