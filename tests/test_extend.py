"""A run that is made longer: it equals one that was longer from the beginning, and nothing is made longer unasked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from thinkling.cli.main import main
from thinkling.core.errors import MachineError
from thinkling.core.run import Run
from thinkling.stages import sft

SETTINGS = {
    "name": "sft",
    "model": "tiny",
    "data": [{"task": "sums", "level": 1, "n": 40}],
    "max_steps": 3,
    "batch_tokens": 400,
    "generate_rows": 0,
    "validation_rows": 4,
    "save_steps": 2,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0,
    "report_to": [],
}


@pytest.fixture(autouse=True)
def _in_english_with_a_small_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    monkeypatch.setattr("thinkling.stages.sft.measure_peak", lambda *_: 1e12)
    monkeypatch.setattr("thinkling.stages.sft.peak_of_own_products", lambda *_: 1e12)
    monkeypatch.setenv("THINKLING_LANG", "en")
    monkeypatch.setenv("THINKLING_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("train.yaml").write_text(yaml.safe_dump({"stages": [{"sft": SETTINGS}]}))


def state_of(folder: str) -> dict[str, torch.Tensor]:
    """Every tensor of the newest checkpoint: masters, moments, the model or adapter, an average."""
    newest = Run(Path(folder) / "sft").checkpoints()[-1][1]
    files = sorted(newest.rglob("*.safetensors"))
    return {f"{file.relative_to(newest)}: {name}": tensor for file in files for name, tensor in load_file(file).items()}


def files_of(folder: str) -> list[tuple[Path, int]]:
    """Every file with the time of its last change."""
    return sorted((file, file.stat().st_mtime_ns) for file in Path(folder).rglob("*") if file.is_file())


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["tuning={method: lora, rank: 4, dropout: 0.2}"],
        ["lr_scheduler_type=inverse_sqrt", "warmup_ratio=null", "warmup_steps=2"],
        ["average=last", "final_model=average"],
    ],
    ids=str,
)
def test_a_run_made_longer_equals_one_that_was_longer_from_the_beginning(settings: list[str]):
    assert main(["run", "train.yaml", "max_steps=7", "run_dir=whole", *settings]) == 0
    assert main(["run", "train.yaml", "run_dir=twice", *settings]) == 0
    assert main(["run", "train.yaml", "max_steps=7", "run_dir=twice", *settings, "--extend"]) == 0
    whole, twice = state_of("whole"), state_of("twice")
    assert whole.keys() == twice.keys()
    assert [name for name in whole if not torch.equal(whole[name], twice[name])] == []
    assert [line["step"] for line in Run(Path("twice/sft")).metrics()] == list(range(8))


def test_epochs_are_added_in_the_order_of_the_longer_run():
    steps = ["max_steps=null", "num_train_epochs=1"]
    assert main(["run", "train.yaml", *steps, "run_dir=twice"]) == 0
    first = json.loads(Path("twice/sft/done.json").read_text())
    assert main(["run", "train.yaml", "max_steps=null", "num_train_epochs=2", "run_dir=twice", "--extend"]) == 0
    second = json.loads(Path("twice/sft/done.json").read_text())
    assert second["steps"] > first["steps"]
    assert second["minutes"] > first["minutes"]  # of both sessions
    assert main(["run", "train.yaml", "max_steps=null", "num_train_epochs=2", "run_dir=whole"]) == 0
    whole, twice = state_of("whole"), state_of("twice")
    assert all(torch.equal(whole[name], twice[name]) for name in whole)


def test_a_schedule_that_had_ended_is_laid_over_the_longer_run(capsys: pytest.CaptureFixture[str]):
    cosine = ["lr_scheduler_type=cosine"]
    assert main(["run", "train.yaml", *cosine]) == 0
    assert main(["run", "train.yaml", *cosine, "max_steps=8", "--extend"]) == 0
    assert "made longer" in capsys.readouterr().out
    run = Run(Path("runs/train/sft"))
    rates = [line["learning_rate"] for line in run.metrics() if line["step"]]
    assert rates[2] < rates[3] < SETTINGS["learning_rate"]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert [event["event"] for event in run.events()] == ["extended"]


def test_an_extended_run_that_was_stopped_goes_on_by_the_same_command_with_or_without_the_option():
    kept = "save_total_limit=9"
    assert main(["run", "train.yaml", "max_steps=7", "run_dir=whole", kept]) == 0
    assert main(["run", "train.yaml", "run_dir=twice", kept]) == 0
    assert main(["run", "train.yaml", "max_steps=7", "run_dir=twice", kept, "--extend"]) == 0
    for again in ([], ["--extend"]):
        Path("twice/sft/done.json").unlink()  # as after a kill behind step 4
        for step in (6, 7):
            shutil.rmtree(Path(f"twice/sft/checkpoints/step-{step}"))
        assert main(["run", "train.yaml", "max_steps=7", "run_dir=twice", kept, *again]) == 0
        assert all(torch.equal(tensor, state_of("twice")[name]) for name, tensor in state_of("whole").items())


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_finished_run_is_not_made_longer_unasked(
    language: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    assert main(["run", "train.yaml"]) == 0
    before = files_of("runs")
    capsys.readouterr()
    monkeypatch.setenv("THINKLING_LANG", language)
    assert main(["run", "train.yaml", "max_steps=8"]) == 2
    said = capsys.readouterr().err
    assert "--extend" in said
    assert ("shorter" in said) == (language == "en")
    assert files_of("runs") == before


@pytest.mark.parametrize("change", ["max_steps=2", "seed=1", "tuning={method: lora, rank: 4}", "batch_tokens=300"])
def test_nothing_but_a_longer_training_is_an_extension(change: str, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "train.yaml"]) == 0
    longer = [] if change.startswith("max_steps") else ["max_steps=8"]
    assert main(["run", "train.yaml", change, *longer, "--extend"]) == 2
    assert "other settings" in capsys.readouterr().err


def test_a_finished_run_whose_data_has_changed_is_not_made_longer_and_stays_as_it_was(
    capsys: pytest.CaptureFixture[str],
):
    def write(answer: str) -> None:
        rows = [{"prompt": f"p{i}", "completion": answer} for i in range(30)]
        Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    data = "data=[{file: rows.jsonl}]"
    Path("train.yaml").write_text(yaml.safe_dump({"stages": [{"sft": {**SETTINGS, "validation_rows": 0}}]}))
    write("yes")
    assert main(["run", "train.yaml", data]) == 0
    before = files_of("runs")
    write("no")
    assert main(["run", "train.yaml", data, "max_steps=8", "--extend"]) == 2
    assert "rows.jsonl has changed" in capsys.readouterr().err
    assert files_of("runs") == before


def killed_behind(write: Callable[[Run, str], None]) -> Callable[[Run, str], None]:
    def write_and_die(run: Run, text: str) -> None:
        write(run, text)
        raise SystemExit(137)

    return write_and_die


def contents_of(folder: str) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in Path(folder, "sft").rglob("*") if file.is_file()}


@pytest.mark.parametrize("trouble", ["another model", "Ctrl-C", "no memory"])
def test_a_finished_run_that_cannot_be_made_longer_stays_finished_as_it_was(
    trouble: str, monkeypatch: pytest.MonkeyPatch
):
    assert main(["run", "train.yaml"]) == 0
    before = contents_of("runs/train")
    with monkeypatch.context() as patched:
        if trouble == "another model":
            weights = Path("tiny/model.safetensors")
            kept = weights.read_bytes()
            save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
        else:
            error = KeyboardInterrupt() if trouble == "Ctrl-C" else MachineError("too small", where="here", fix="none")
            patched.setattr(sft, "refuse_what_does_not_fit", Mock(side_effect=error))
        assert main(["run", "train.yaml", "max_steps=7", "--extend"]) == (130 if trouble == "Ctrl-C" else 2)
    assert contents_of("runs/train") == before
    if trouble == "another model":
        weights.write_bytes(kept)
    assert main(["run", "train.yaml", "max_steps=7", "--extend"]) == 0
    assert len(Run(Path("runs/train/sft")).metrics()) == 8


@pytest.mark.parametrize("instant", ["event", "sync", "_write_settings", "behind"])
def test_killed_at_any_moment_of_being_made_longer_it_is_not_taken_for_finished(
    instant: str, monkeypatch: pytest.MonkeyPatch
):
    assert main(["run", "train.yaml"]) == 0
    with monkeypatch.context() as patched:
        if instant == "behind":
            patched.setattr(Run, "_write_settings", killed_behind(Run._write_settings))
        else:
            patched.setattr(Run, instant, Mock(side_effect=SystemExit(137)))
        with pytest.raises(SystemExit):
            main(["run", "train.yaml", "max_steps=7", "--extend"])
    run = Run(Path("runs/train/sft"))
    assert run.settings()["max_steps"] == (7 if instant == "behind" else 3)
    assert main(["run", "train.yaml", "max_steps=7", "--extend"]) == 0
    assert [line["step"] for line in run.metrics()] == list(range(8))


def test_where_two_trainings_are_made_longer_the_one_made_from_the_other_is_made_again():
    second = {**SETTINGS, "name": "second", "model": "@sft"}
    Path("train.yaml").write_text(yaml.safe_dump({"stages": [{"sft": SETTINGS}, {"sft": second}]}))
    assert main(["run", "train.yaml"]) == 0
    assert main(["run", "train.yaml", "sft.max_steps=7", "second.max_steps=5", "--extend"]) == 0
    assert len(Run(Path("runs/train/second.old-1")).metrics()) == 4
    assert len(Run(Path("runs/train/second")).metrics()) == 6
    assert not Run(Path("runs/train/second")).is_extended


def test_what_was_made_from_the_shorter_run_is_made_again_and_kept():
    evaluated = {"name": "after", "model": "@sft", "tasks": [{"task": "sums", "n": 2}], "max_new_tokens": 2}
    Path("train.yaml").write_text(yaml.safe_dump({"stages": [{"sft": SETTINGS}, {"evaluate": evaluated}]}))
    assert main(["run", "train.yaml"]) == 0
    assert main(["run", "train.yaml", "sft.max_steps=7", "--extend"]) == 0
    assert Path("runs/train/after.old-1/evaluation.json").exists()
    assert Path("runs/train/after/evaluation.json").exists()


def test_a_longer_training_of_the_same_settings_is_told_from_any_other():
    then = sft.Config(**SETTINGS).model_dump(mode="json")
    assert sft.is_longer(then, {**then, "max_steps": 4})
    assert sft.is_longer(then, {**then, "max_steps": 4, "learning_rate": 1.0, "lr_scheduler_type": "linear"})
    assert not sft.is_longer(then, then)
    assert not sft.is_longer(then, {**then, "learning_rate": 1.0})
    assert not sft.is_longer(then, {**then, "max_steps": None, "num_train_epochs": 9.0})
