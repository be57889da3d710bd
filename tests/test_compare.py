"""`thinkling compare`: one recipe becomes many trainings and one table whose every cell can be checked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from thinkling import recipes
from thinkling.cli.main import main
from thinkling.core import shelf
from thinkling.core.config import known_keys
from thinkling.core.device import forget_process_peak, process_peak_memory_gib
from thinkling.core.errors import ConfigError, RunError
from thinkling.core.run import Run, read_json
from thinkling.core.stats import wilson
from thinkling.data.batch import pack
from thinkling.recipes.comparing import multiplied
from thinkling.stages import compare
from thinkling.tokenizer.chat import encode_prompt

SMALL = [
    "before.tasks=[{task: sums, level: 1, n: 4}]",
    "before.max_new_tokens=4",
    "sft.data=[{task: sums, level: 1, n: 8}]",
    "sft.batch_tokens=500",
    "max_steps=2",
    "validation_rows=4",
]


@pytest.fixture(autouse=True)
def _english_and_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THINKLING_LANG", "en")
    monkeypatch.chdir(tmp_path)


def template(*overrides):
    return recipes.load("compare", overrides)


def stage(recipe, name):
    return next(one.settings for one in recipe.stages if one.name == name)


# the recipe -----------------------------------------------------------------------------------------------------------


def test_each_method_trains_on_the_same_rows_from_the_same_model_and_is_scored_on_the_same_problems():
    recipe = multiplied(template(), ["full", "ia3", "bitfit"])
    names = ["base", "full", "full-score", "ia3", "ia3-score", "bitfit", "bitfit-score", "table"]
    assert [one.name for one in recipe.stages] == names
    own = {"name", "tuning", "learning_rate"}
    trainings = [{k: v for k, v in stage(recipe, n).items() if k not in own} for n in ("full", "ia3", "bitfit")]
    assert trainings[0] == trainings[1] == trainings[2]
    own = {"name", "model", "versus"}
    scored = [{k: v for k, v in stage(recipe, n).items() if k not in own} for n in ("base", "full-score", "ia3-score")]
    assert scored[0] == scored[1] == scored[2]
    assert stage(recipe, "ia3-score")["model"] == "@ia3"
    assert stage(recipe, "ia3-score")["versus"] == "@base"


def test_a_method_takes_settings_of_its_own_and_of_its_training():
    recipe = multiplied(template("sft.seed=3"), ["bottleneck", "bottleneck:bottleneck_width=8:learning_rate=2e-4"])
    label = "bottleneck-bottleneck_width-8-learning_rate-2e-4"
    assert stage(recipe, label)["tuning"]["bottleneck_width"] == 8
    assert stage(recipe, label)["learning_rate"] == 2e-4
    assert stage(recipe, "bottleneck")["tuning"]["bottleneck_width"] == 64


def test_a_method_begins_at_its_own_learning_rate_unless_one_is_named_for_all():
    rate = shelf.entry("tuning", "ia3").LEARNING_RATE
    plain = multiplied(template(), ["full", "ia3"])
    assert stage(plain, "ia3")["learning_rate"] == rate != stage(plain, "full")["learning_rate"]
    named = multiplied(template("learning_rate=5e-4"), ["full", "ia3", "bitfit:learning_rate=1e-2"])
    rates = [stage(named, name)["learning_rate"] for name in ("full", "ia3", "bitfit-learning_rate-1e-2")]
    assert rates == [5e-4, 5e-4, 1e-2]


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([], "two methods"),
        (["full"], "two methods"),
        (["full", "full"], "stands twice"),
        (["full", "lroa"], "no entry 'lroa'"),
        (["full", "ia3:rank=3"], "unknown setting"),
        (["full", "ia3:3"], "not a setting"),
        (["full", "ia3:a.b=3"], "not a setting"),
    ],
)
def test_methods_that_cannot_be_compared_are_refused(methods, message):
    with pytest.raises(ConfigError, match=message):
        multiplied(template(), methods)


def test_a_recipe_without_one_training_behind_an_evaluation_is_refused():
    with pytest.raises(ConfigError, match="of one training, and this one has 0"):
        multiplied(recipes.load("evaluate", ["model=smollm2-135m"]), ["full", "ia3"])
    with pytest.raises(ConfigError, match="evaluated before"):
        multiplied(recipes.load("sft"), ["full", "ia3"])
    assert multiplied(recipes.load("quickstart"), ["full", "ia3"]).name == "quickstart"


def test_every_learning_rate_on_the_shelf_is_one():
    for name in shelf.names("tuning"):
        entry = shelf.entry("tuning", name)
        assert 0 < getattr(entry, "LEARNING_RATE", 1e-4) < 1
        assert "method" not in known_keys(entry.Config)


# the table ------------------------------------------------------------------------------------------------------------


def test_the_command_trains_scores_and_prints_one_table(tiny_model_dir, capsys, tmp_path):
    methods = ["full", "bitfit", "ia3", "bottleneck:bottleneck_width=8", "prompt", "prefix:encoder_hidden_size=8"]
    assert main(["compare", *methods, f"model={tiny_model_dir}", *SMALL, "run_dir=c"]) == 0
    printed = capsys.readouterr().out
    rows = read_json(Run(tmp_path / "c" / "table").comparison_file)["rows"]
    labels = [
        "base",
        "full",
        "bitfit",
        "ia3",
        "bottleneck-bottleneck_width-8",
        "prompt",
        "prefix-encoder_hidden_size-8",
    ]
    assert [row["method"] for row in rows] == labels
    assert "bottleneck" in printed
    assert "The same table to keep: c/table/comparison.md" in " ".join(printed.split())
    page = (tmp_path / "c" / "table" / "comparison.md").read_text()
    assert page.count("\n| ") == len(labels) + 1
    for row in rows[1:]:
        done = read_json(tmp_path / "c" / row["method"] / "done.json")
        assert (row["minutes"], row["peak_memory_gib"]) == (done["minutes"], done["peak_memory_gib"])
        assert row["step_s"]["n"] == done["steps"] == 2
        assert row["score"]["interval"] == list(wilson(row["score"]["right"], row["score"]["n"]))
        assert row["score"]["n"] == 4
    trained = {row["method"]: row["trained_parameters"] for row in rows[1:]}
    # Two layers: q, k and v of 48, 16 and 16; IA3 of 16, 16 and 80; 20 embeddings of 48.
    assert (trained["bitfit"], trained["ia3"], trained["prompt"]) == (2 * 80, 2 * 112, 20 * 48)
    assert trained["full"] > 10 * trained["bottleneck-bottleneck_width-8"]


def test_the_command_goes_on_where_it_was_and_shows_the_table_again(tiny_model_dir, capsys, tmp_path):
    command = ["compare", "bitfit", "ia3", f"model={tiny_model_dir}", *SMALL, "run_dir=c"]
    assert main(command) == 0
    first = (tmp_path / "c" / "table" / "comparison.json").read_text()
    capsys.readouterr()
    assert main(command) == 0
    assert "bitfit" in capsys.readouterr().out
    assert (tmp_path / "c" / "table" / "comparison.json").read_text() == first


def test_a_method_that_fails_loses_no_other_one_and_is_done_again_alone(tiny_model_dir, capsys, tmp_path, monkeypatch):
    command = ["compare", "full", "lora:rank=40", "ia3", f"model={tiny_model_dir}", *SMALL, "run_dir=c"]
    assert main(command) == 2
    said = capsys.readouterr()
    assert "error: 'lora-rank-40' failed: rank 40 is above the width 16" in said.err
    assert "take a rank of at most 16" in said.err
    rows = read_json(Run(tmp_path / "c" / "table").comparison_file)["rows"]
    assert [("failed" in row, row["method"]) for row in rows[1:]] == [
        (False, "full"),
        (True, "lora-rank-40"),
        (False, "ia3"),
    ]
    assert not (tmp_path / "c" / "lora-rank-40-score").exists()
    page = (tmp_path / "c" / "table" / "comparison.md").read_text()
    assert "| lora-rank-40 | – | failed | – |" in page
    assert "lora-rank-40 failed: rank 40 is above" in page
    # What was wrong is mended: only the failed one, its evaluation and the table are made.
    trained = {name: (tmp_path / "c" / name / "done.json").stat().st_mtime_ns for name in ("base", "full", "ia3")}
    monkeypatch.setattr("thinkling.tuning.lora._refuse_wide", lambda covered, config: None)
    assert main(command) == 0
    assert {name: (tmp_path / "c" / name / "done.json").stat().st_mtime_ns for name in trained} == trained
    rows = read_json(Run(tmp_path / "c" / "table").comparison_file)["rows"]
    assert not any("failed" in row for row in rows)


def test_a_failure_that_all_need_and_ctrl_c_end_the_comparison(tiny_model_dir, capsys, tmp_path, monkeypatch):
    command = ["compare", "full", "ia3", f"model={tiny_model_dir}", *SMALL]

    def stopped(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("thinkling.stages.sft.train", stopped)
        assert main([*command, "run_dir=stopped"]) == 130
    assert not (tmp_path / "stopped" / "ia3").exists()
    monkeypatch.setattr("thinkling.stages.evaluate.run", lambda *_: (_ for _ in ()).throw(RunError("no evaluation")))
    assert main([*command, "run_dir=base"]) == 2
    assert not (tmp_path / "base" / "full").exists()


def test_a_dry_run_shows_every_training_and_does_nothing(tiny_model_dir, capsys, tmp_path):
    assert main(["compare", "full", "ia3", f"model={tiny_model_dir}", *SMALL, "run_dir=c", "--dry-run"]) == 0
    assert "ia3-score" in capsys.readouterr().out
    assert not (tmp_path / "c").exists()
    assert main(["compare", "full", "ia3:learning_rate=1e-2", f"model={tiny_model_dir}", *SMALL, "--dry-run"]) == 0
    assert "runs/compare-full-ia3-learning_rate-1e-2" in capsys.readouterr().out


def test_a_training_that_is_missing_from_the_table_is_an_error(tmp_path):
    config = compare.Config(before="nowhere", trainings=("nowhere",), evaluations=("nowhere",))
    with pytest.raises(RunError, match="not a run folder"):
        compare.run(config, Run.start(tmp_path / "t", {}), None, {})
    with pytest.raises(ConfigError, match="1 trainings and 2 evaluations"):
        compare.run(config.model_copy(update={"evaluations": ("a", "b")}), Run.start(tmp_path / "u", {}), None, {})


# retention ------------------------------------------------------------------------------------------------------------


def test_retention_is_the_loss_of_the_answer_alone(tiny_model, tokenizer):
    from thinkling.core.progress import Silent
    from thinkling.model.attend import PackedAttend

    config = compare.Config(before="", trainings=("",), evaluations=("",), retention_tokens=5)
    answers = compare.everyday_answers(tiny_model, tokenizer, config, Silent())
    assert len(answers) == len(compare.QUESTIONS)
    first = answers[0]
    prompt = encode_prompt(tokenizer, [compare.Message("user", compare.QUESTIONS[0])])
    n = first.n_tokens
    assert first.tokens[: len(prompt)].tolist() == prompt
    with torch.no_grad():
        hidden = tiny_model(first.tokens, torch.arange(n), PackedAttend(torch.tensor([0, n]), way="sdpa"))
        log_p = torch.log_softmax(tiny_model.logits(hidden).float(), -1)
    own = [float(log_p[i - 1, first.tokens[i]]) for i in range(len(prompt), n)]
    assert compare.losses_on(tiny_model, answers)[0] == pytest.approx(-sum(own) / len(own), rel=1e-4)


def test_a_model_that_was_changed_at_random_retains_less(tiny_model, tokenizer):
    """What the base model said by itself is likelier under it than under another model, on average."""
    from thinkling.core.progress import Silent

    config = compare.Config(before="", trainings=("",), evaluations=("",), retention_tokens=20)
    answers = compare.everyday_answers(tiny_model, tokenizer, config, Silent())
    before = compare.mean(compare.losses_on(tiny_model, answers))
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    assert compare.mean(compare.losses_on(tiny_model, answers)) > before + 0.05


def test_the_base_model_asked_again_gives_the_same_answers(tiny_model, tokenizer):
    from thinkling.core.progress import Silent

    config = compare.Config(before="", trainings=("",), evaluations=("",), retention_tokens=5)
    first, again = (compare.everyday_answers(tiny_model, tokenizer, config, Silent()) for _ in range(2))
    assert all(torch.equal(a.tokens, b.tokens) for a, b in zip(first, again, strict=True))
    assert pack([first[0].tokens.tolist()], [[1.0] * first[0].n_tokens]).n_tokens == first[0].n_tokens


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets a peak")
def test_a_peak_of_memory_that_is_over_can_be_forgotten():
    block = bytearray(200 * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    high = process_peak_memory_gib()
    del block
    forget_process_peak()
    assert process_peak_memory_gib() < high - 0.1


def test_the_table_names_what_each_column_is(tmp_path):
    row = {"method": "base", "score": {"right": 1, "n": 2, "score": 0.5, "interval": [0.1, 0.9]}}
    page = compare.as_page([{**row, "retention": {"loss": 2.5, "n": 16}}])
    assert page.splitlines()[2] == "| base | – | 50.0 % [10–90] | – | 2.500 | – | – | – | – |"
    assert "right answers to 2 held-out problems" in page
    assert json.dumps(page)
