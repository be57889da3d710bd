"""The learning-rate range test: what a curve says, and that nothing of the trained weights stays."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from test_trainer import rows

from thinkling.cli.main import main
from thinkling.core.errors import NumericsError
from thinkling.core.progress import Silent
from thinkling.core.run import Run, read_json
from thinkling.data.loader import Loader
from thinkling.engine.range_test import Probe, advise, range_test, rising_rates
from thinkling.engine.settings import TrainerConfig
from thinkling.losses import CROSS_ENTROPY
from thinkling.model.folder import save_folder


def curve(*losses, low=1e-5):
    return [Probe(i, low * 10 ** (i - 1), loss, loss) for i, loss in enumerate(losses, 1)]


def test_rates_rise_by_the_same_factor_from_the_first_to_the_last():
    rates = rising_rates(1e-6, 1e-2, 5)
    assert rates == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2])


def test_the_advice_is_a_tenth_of_the_rate_of_the_lowest_loss():
    advice = advise(curve(5.0, 4.9, 3.0, 2.0, 9.0), 5)
    # Rates 1e-5, 1e-4, 1e-3, 1e-2, 1e-1: fastest from 4.9 to 3.0, lowest at 2.0.
    assert advice.learning_rate == pytest.approx(1e-3)
    assert advice.steepest == pytest.approx(1e-3)
    assert advice.lowest == pytest.approx(1e-2)
    assert advice.broke


def test_a_curve_that_never_falls_gives_no_advice_and_one_that_never_breaks_says_so():
    assert advise(curve(5.0, 5.0, 4.99, 8.0), 4).learning_rate is None
    assert advise(curve(5.0), 9).learning_rate is None
    assert not advise(curve(5.0, 4.0, 3.0, 2.0), 4).broke


def test_a_test_that_goes_too_far_finds_where_the_loss_breaks(tiny_model):
    loader = Loader(rows(), batch_tokens=100, seed=3)
    probes = range_test(
        tiny_model, loader, CROSS_ENTROPY, TrainerConfig(), low=1e-5, high=1e4, steps=60, progress=Silent()
    )
    advice = advise(probes, 60)
    assert len(probes) < 60
    assert advice.broke
    assert advice.learning_rate is not None
    assert 1e-5 < advice.learning_rate < 1.0
    assert all(math.isfinite(probe.loss) for probe in probes)


def test_find_lr_writes_a_table_and_advice_and_no_weights(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tiny_model, tokenizer
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THINKLING_LANG", "en")
    save_folder(tiny_model, tokenizer, tmp_path / "tiny")
    before = {file: file.read_bytes() for file in (tmp_path / "tiny").iterdir()}
    data = "sft.data=[{task: sums, level: 1, n: 20}]"
    arguments = ["find-lr", "sft", "model=./tiny", data, "sft.batch_tokens=300", "--steps", "12", "--high", "1.0"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "learning_rate" in said
    assert "sft.learning_rate=" in said or "nothing was learnt" in said
    run = Run.open(tmp_path / "runs" / "find-lr-sft-1")
    assert [line["step"] for line in run.metrics()] == list(range(1, len(run.metrics()) + 1))
    assert {"learning_rate", "loss/train", "loss/smoothed"} <= set(run.metrics()[0])
    assert set(read_json(run.done_file)) >= {"learning_rate", "steepest", "lowest", "broke"}
    assert not list((tmp_path / "runs").rglob("*.safetensors"))
    assert before == {file: file.read_bytes() for file in (tmp_path / "tiny").iterdir()}


def test_find_lr_in_the_same_folder_again_writes_each_step_once(monkeypatch, tmp_path, tiny_model_dir):
    monkeypatch.chdir(tmp_path)
    data = "sft.data=[{task: sums, level: 1, n: 20}]"
    arguments = ["find-lr", "sft", "model=./tiny", data, "sft.batch_tokens=300", "--steps", "4", "--run-dir", "here"]
    assert main(arguments) == main(arguments) == 0
    assert [line["step"] for line in Run.open(Path("here")).metrics()] == [1, 2, 3, 4]


def test_a_loss_that_is_broken_before_the_first_update_is_no_matter_of_the_rate(tiny_model):
    with torch.no_grad():
        tiny_model.model.norm.weight.fill_(math.nan)
    loader, settings = Loader(rows(), batch_tokens=100, seed=3), TrainerConfig()
    with pytest.raises(NumericsError, match="holds a weight that is not a number"):
        range_test(tiny_model, loader, CROSS_ENTROPY, settings, low=1e-5, high=1.0, steps=5, progress=Silent())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate"], "this recipe trains no model"),
        (["sft", "--stage", "before"], "'before' is no stage of this recipe that trains"),
        (["sft", "--low", "1", "--high", "0.1"], "there is no range"),
        (["sft", "--steps", "2"], "there is no range"),
        (["sft", "--high", "inf"], "there is no range"),
    ],
)
def test_what_find_lr_cannot_do_is_told_in_three_lines(capsys, monkeypatch, tmp_path, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("THINKLING_LANG", "en")
    assert main(["find-lr", *arguments]) == 2
    complaint = capsys.readouterr().err
    assert said in complaint
    assert "fix:" in complaint
    assert not (tmp_path / "runs").exists()
