"""Recipes: checked whole before the first step, addressed by stage, and never done twice or from stale results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from thinkling import recipes
from thinkling.core.errors import ConfigError, DataError, Interrupted, RunError, Terminated
from thinkling.core.progress import Silent
from thinkling.core.run import Run, read_json

STAGE = '''
"""A stage that writes down that it ran."""
from __future__ import annotations

from thinkling.core.config import Config as Settings
from thinkling.core.errors import DataError, TerminationRequest


class Inner(Settings):
    every: int = 10


class Config(Settings):
    name: str = "first"
    model: str = "base"
    learning_rate: float = 1e-3
    tasks: tuple[str, ...] = ()
    inner: Inner = Inner()
    fail: str = ""


def run(config, run, progress, earlier):
    log = run.path.parent / "log.txt"
    log.write_text((log.read_text() if log.exists() else "") + config.name + " ")
    (run.path / "seen.txt").write_text(" ".join(earlier))
    if config.fail == "data" and not (run.path.parent / "mended").exists():
        raise DataError("there are no rows", where="data.jsonl", fix="add some")
    if config.fail == "sigterm":
        raise TerminationRequest
    if config.fail == "ctrl-c" and not (run.path.parent / "mended").exists():
        raise KeyboardInterrupt
'''


@pytest.fixture
def kind(tmp_path: Path) -> str:
    """The path of a stage of our own: settings name, model, learning_rate, tasks, inner.every, fail."""
    (tmp_path / "stage.py").write_text(STAGE)
    return str(tmp_path / "stage.py")


def _recipe(kind: str, *stages: dict[str, Any], **top: Any) -> dict[str, Any]:
    return {**top, "stages": [{kind: stage} for stage in stages]}


def _built(values: Any, *overrides: str) -> recipes.Recipe:
    return recipes.build(values, overrides, where="my.yaml")


def _refused(values: Any, *overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        _built(values, *overrides)
    assert caught.value.where
    assert caught.value.fix
    return caught.value


# loading ----------------------------------------------------------------------------------------------------------


def test_a_resolved_recipe_writes_out_every_default_and_is_a_recipe_again(kind: str):
    recipe = _built(_recipe(kind, {"name": "a"}, {"name": "b", "model": "@a"}, variables={}), "b.learning_rate=1e-5")
    assert recipe.stages[0].settings["learning_rate"] == 1e-3
    again = _built(recipe.resolved())
    assert [s.settings for s in again.stages] == [s.settings for s in recipe.stages]


def test_a_stage_without_settings_is_all_defaults(kind: str):
    assert _built({"stages": [{kind: None}]}).stages[0].name == "first"


@pytest.mark.parametrize(
    ("values", "what"),
    [
        (None, "this is not a recipe"),
        ([], "this is not a recipe"),
        ({}, "no stages"),
        ({"stages": []}, "no stages"),
        ({"stages": {"sft": {}}}, "this is not a recipe"),
        ({"stages": ["sft"]}, "not 'sft'"),
        ({"stages": [{"sft": {}, "dpo": {}}]}, "2 keys (sft, dpo)"),
        ({"stages": [{"sft": [1]}]}, "must be a mapping"),
        ({"stages": [{"sft": {}}], "variables": [1]}, "variables must be a mapping"),
    ],
)
def test_what_is_not_a_recipe_is_refused_in_words(values: Any, what: str):
    assert what in _refused(values).what


def test_an_unknown_top_key_and_an_unknown_stage_get_the_closest_name():
    assert "'stages'" in _refused({"stagse": []}).fix
    error = _refused({"stages": [{"evalute": {}}]})
    assert "no stage 'evalute'" in error.what
    assert "'evaluate'" in error.fix
    assert error.where == "my.yaml, stage 1"


def test_a_mistake_in_the_last_stage_is_found_before_the_first_runs(kind: str):
    error = _refused(_recipe(kind, {"name": "a"}, {"name": "b", "lerning_rate": 1}))
    assert "lerning_rate" in error.what
    assert "stage 2" in error.where
    assert "'learning_rate'" in error.fix


def test_a_file_that_is_no_stage_is_refused(tmp_path: Path):
    (tmp_path / "odd.py").write_text("Config = 3\n")
    assert "is not a stage" in _refused({"stages": [{str(tmp_path / "odd.py"): {}}]}).what


@pytest.mark.parametrize("name", ["../../elsewhere", "/elsewhere", "a/b", "..", ["a"], 5])
def test_a_recipe_whose_name_is_no_folder_of_its_own_is_refused(kind: str, name: Any):
    assert "cannot be the name of a recipe" in _refused(_recipe(kind, {}, name=name)).what


def test_two_stages_of_one_name_and_names_that_are_no_folder_are_refused(kind: str):
    assert "two stages have the name 'a'" in _refused(_recipe(kind, {"name": "a"}, {"name": "a"})).what
    for name in ("a.b", "../a", "a/b", "", "-a", "a b"):
        assert "cannot be the name" in _refused(_recipe(kind, {"name": name})).what


def test_a_recipe_file_is_found_by_path_and_takes_its_name_from_it(kind: str, tmp_path: Path):
    (tmp_path / "mine.yaml").write_text(f"stages:\n  - {kind}: {{learning_rate: 1e-4}}\n")
    recipe = recipes.load(str(tmp_path / "mine.yaml"))
    assert (recipe.name, recipe.stages[0].settings["learning_rate"]) == ("mine", 1e-4)


def test_an_unknown_recipe_gets_the_closest_name_and_a_missing_file_its_path(tmp_path: Path):
    with pytest.raises(ConfigError, match="no recipe 'smok'") as caught:
        recipes.load("smok")
    assert "'smoke'" in caught.value.fix
    with pytest.raises(ConfigError, match="there is no file"):
        recipes.load(str(tmp_path / "no.yaml"))


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_of_the_package_is_right_as_it_stands(name: str):
    recipe = recipes.load(name)
    assert recipe.name == name
    assert recipe.about


# overrides and variables ------------------------------------------------------------------------------------------


def test_an_override_addresses_a_stage_by_its_name_and_goes_as_deep_as_its_keys(kind: str):
    recipe = _built(_recipe(kind, {"name": "a"}, {"name": "b"}), "b.inner.every=3", "a.tasks=[sums, units]")
    assert recipe.stages[0].settings["inner"] == {"every": 10}
    assert recipe.stages[1].settings["inner"] == {"every": 3}
    assert recipe.stages[0].settings["tasks"] == ["sums", "units"]


def test_a_key_alone_addresses_the_only_stage_that_knows_it(kind: str):
    assert _built(_recipe(kind, {}), "learning_rate=0.5").stages[0].settings["learning_rate"] == 0.5
    assert _built(_recipe(kind, {}), "inner.every=7").stages[0].settings["inner"] == {"every": 7}


def test_a_key_that_two_stages_know_is_refused_with_the_choices(kind: str):
    error = _refused(_recipe(kind, {"name": "a"}, {"name": "b"}), "learning_rate=1")
    assert error.fix == "say which: a.learning_rate, b.learning_rate"


def test_a_mistyped_override_gets_the_closest_name_of_key_stage_or_variable(kind: str):
    values = _recipe(kind, {"name": "before", "model": "${base_model}"}, variables={"base_model": "x"})
    assert "'learning_rate'" in _refused(values, "lerning_rate=1").fix
    assert "'before'" in _refused(values, "befroe.learning_rate=1").fix
    assert "'base_model'" in _refused(values, "base_modle=1").fix
    assert "'learning_rate'" in _refused(values, "before.lerning_rate=1").fix


def test_a_single_value_has_no_settings_of_its_own(kind: str):
    assert "single value" in _refused(_recipe(kind, {"name": "a", "learning_rate": 1}), "a.learning_rate.x=1").what


def test_a_variable_alone_keeps_its_type_and_within_text_becomes_text(kind: str):
    values = _recipe(
        kind,
        {"name": "a", "learning_rate": "${rate}", "model": "m-${rate}", "tasks": ["${task}"]},
        variables={"rate": 0.5, "task": "sums"},
    )
    settings = _built(values).stages[0].settings
    assert (settings["learning_rate"], settings["model"], settings["tasks"]) == (0.5, "m-0.5", ["sums"])


def test_an_override_of_a_variable_reaches_every_stage_and_wins_over_settings_of_that_name(kind: str):
    values = _recipe(
        kind, {"name": "a", "model": "${model}"}, {"name": "b", "model": "${model}"}, variables={"model": "x"}
    )
    assert [s.settings["model"] for s in _built(values, "model=org/y").stages] == ["org/y", "org/y"]


def test_an_unknown_variable_is_refused_and_so_is_one_that_nothing_uses(kind: str):
    assert "'model'" in _refused(_recipe(kind, {"model": "${modle}"}, variables={"model": "x"})).fix
    assert "no effect" in _refused(_recipe(kind, {}, variables={"model": "x"})).what
    both = _refused(_recipe(kind, {"name": "a", "model": "${a}"}, variables={"a": "x"}))
    assert "both a variable and the name of a stage" in both.what


def test_an_override_that_takes_a_variables_last_use_makes_it_an_error(kind: str):
    values = _recipe(kind, {"name": "a", "model": "${model}"}, variables={"model": "x"})
    assert "no effect" in _refused(values, "a.model=y").what


# references -------------------------------------------------------------------------------------------------------


def test_a_reference_to_an_earlier_stage_is_right_and_any_other_is_refused(kind: str):
    assert _built(_recipe(kind, {"name": "a"}, {"name": "b", "model": "@a"})).stages[1].needs == ("a",)
    late = _refused(_recipe(kind, {"name": "a", "model": "@b"}, {"name": "b"}))
    assert "has not run by then" in late.what
    assert "has not run by then" in _refused(_recipe(kind, {"name": "a", "model": "@a"})).what
    unknown = _refused(_recipe(kind, {"name": "train"}, {"name": "b", "model": "@trian"}))
    assert "no stage of this recipe" in unknown.what
    assert "'train'" in unknown.fix


def test_an_at_sign_within_a_text_is_no_reference(kind: str):
    assert _built(_recipe(kind, {"model": "me@home"}, variables={})).stages[0].needs == ()


# running ----------------------------------------------------------------------------------------------------------


def _run(values: Any, folder: Path) -> Silent:
    progress = Silent()
    recipes.run(_built(values), folder, progress)
    return progress


def _log(folder: Path) -> str:
    return (folder / "log.txt").read_text()


def test_stages_run_in_order_in_folders_of_their_own_and_see_the_earlier_ones(kind: str, tmp_path: Path):
    _run(_recipe(kind, {"name": "a"}, {"name": "b", "model": "@a"}), tmp_path / "r")
    assert _log(tmp_path / "r") == "a b "
    assert (tmp_path / "r" / "b" / "seen.txt").read_text() == "a"
    assert Run.open(tmp_path / "r" / "b").settings()["model"] == "@a"
    assert read_json(tmp_path / "r" / "b" / "done.json")["reason"] == "finished"
    assert recipes.load(str(tmp_path / "r" / "recipe.yaml")).stages[1].name == "b"


def test_the_recipe_in_the_folder_gives_the_very_same_run_again(kind: str, tmp_path: Path):
    _run(_recipe(kind, {"name": "a", "model": "${m}"}, variables={"m": "x"}), tmp_path / "r")
    again = recipes.load(str(tmp_path / "r" / "recipe.yaml"))
    assert again.stages[0].settings == Run.open(tmp_path / "r" / "a").settings()


def test_a_finished_stage_is_skipped_aloud_and_keeps_its_files(kind: str, tmp_path: Path):
    values = _recipe(kind, {"name": "a"}, {"name": "b", "model": "@a"})
    _run(values, tmp_path)
    before = (tmp_path / "a" / "environment.txt").read_bytes()
    notes = _run(values, tmp_path).notes
    assert _log(tmp_path) == "a b "
    assert sum("finished before, skipped" in note for note in notes) == 2
    assert (tmp_path / "a" / "environment.txt").read_bytes() == before


def test_other_settings_for_a_finished_stage_are_refused_and_nothing_is_lost(kind: str, tmp_path: Path):
    _run(_recipe(kind, {"name": "a"}), tmp_path)
    with pytest.raises(RunError, match=r"learning_rate was 0\.001 and is 0\.5"):
        _run(_recipe(kind, {"name": "a", "learning_rate": 0.5}), tmp_path)
    assert Run.open(tmp_path / "a").is_finished


def test_other_settings_for_the_last_stage_are_found_before_the_first_runs(kind: str, tmp_path: Path):
    _run(_recipe(kind, {"name": "b"}), tmp_path)
    recipe_before = (tmp_path / "recipe.yaml").read_text()
    with pytest.raises(RunError, match="learning_rate"):
        _run(_recipe(kind, {"name": "a"}, {"name": "b", "learning_rate": 0.5}), tmp_path)
    assert _log(tmp_path) == "b "
    assert (tmp_path / "recipe.yaml").read_text() == recipe_before


def test_a_stage_that_fails_leaves_word_and_the_next_call_goes_on_there(kind: str, tmp_path: Path):
    values = _recipe(kind, {"name": "a"}, {"name": "b", "fail": "data"}, {"name": "c"})
    with pytest.raises(DataError, match="no rows"):
        _run(values, tmp_path)
    assert json.loads((tmp_path / "b" / "done.json").read_text())["reason"] == "failed"
    assert not (tmp_path / "c").exists()
    (tmp_path / "mended").touch()
    _run(values, tmp_path)
    assert _log(tmp_path) == "a b b c "


def test_ctrl_c_says_where_and_how_to_go_on_and_lets_the_folder_go(kind: str, tmp_path: Path):
    values = _recipe(kind, {"name": "a", "fail": "ctrl-c"})
    with pytest.raises(Interrupted, match="stopped by Ctrl-C in 'a'") as caught:
        _run(values, tmp_path)
    assert "same command" in caught.value.fix
    assert read_json(tmp_path / "a" / "done.json")["reason"] == "interrupted"
    (tmp_path / "mended").touch()
    _run(values, tmp_path)
    assert Run.open(tmp_path / "a").is_finished


def test_sigterm_leaves_word_as_ctrl_c_does(kind: str, tmp_path: Path):
    with pytest.raises(Terminated, match="stopped by SIGTERM in 'a'"):
        _run(_recipe(kind, {"name": "a", "fail": "sigterm"}), tmp_path)
    assert read_json(tmp_path / "a" / "done.json")["reason"] == "interrupted"


def test_a_result_made_from_one_that_ran_anew_is_made_again_and_the_old_one_kept(kind: str, tmp_path: Path):
    values = _recipe(kind, {"name": "a"}, {"name": "b", "model": "@a"}, {"name": "c"})
    _run(values, tmp_path)
    (tmp_path / "b" / "precious").touch()
    (tmp_path / "a" / "done.json").unlink()
    notes = _run(values, tmp_path).notes
    assert _log(tmp_path) == "a b c a b "  # c is made from neither
    assert (tmp_path / "b.old-1" / "precious").exists()
    assert any("made from an older 'a'" in note for note in notes)


def test_a_finished_stage_whose_file_has_changed_is_refused_before_anything_runs(kind: str, tmp_path: Path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("1\n")
    values = _recipe(kind, {"name": "a", "fail": "data"}, {"name": "b", "tasks": [str(rows), "no.file"]})
    folder = tmp_path / "r"
    (folder / "b").parent.mkdir()
    (folder / "mended").touch()
    _run(values, folder)
    rows.touch()
    assert sum("skipped" in note for note in _run(values, folder).notes) == 2
    rows.write_text("2\n")
    (folder / "a" / "done.json").unlink()
    with pytest.raises(RunError, match=r"'b' has finished, and .*rows\.jsonl has changed since") as caught:
        _run(values, folder)
    assert "run_dir=PATH" in caught.value.fix
    assert _log(folder) == "a b "
    rows.unlink()  # what is no longer here cannot have changed
    _run(values, folder)


def test_a_stale_result_is_found_even_if_the_run_between_was_killed(kind: str, tmp_path: Path):
    values = _recipe(kind, {"name": "a"}, {"name": "b", "model": "@a"})
    _run(values, tmp_path)
    (tmp_path / "a" / "done.json").unlink()
    _run({"stages": values["stages"][:1]}, tmp_path)  # only a, as if killed before b was looked at
    _run(values, tmp_path)
    assert _log(tmp_path) == "a b a b "


def test_a_stage_in_use_by_another_is_refused(kind: str, tmp_path: Path):
    values = _recipe(kind, {"name": "a"})
    held = Run.start(tmp_path / "a", _built(values).stages[0].settings)
    with pytest.raises(RunError, match="another process"):
        _run(values, tmp_path)
    held.close()


# for editors and tables -------------------------------------------------------------------------------------------


def test_the_schema_knows_every_stage_its_settings_and_their_meaning():
    schema = recipes.schema()
    choices = schema["properties"]["stages"]["items"]["anyOf"]
    assert {"sft", "evaluate", "report"} <= {next(iter(choice["properties"])) for choice in choices}
    reference = next(c["properties"]["sft"]["$ref"] for c in choices if "sft" in c["properties"])
    settings = schema["$defs"][reference.rsplit("/", 1)[1]]
    rate = settings["properties"]["learning_rate"]["anyOf"]
    assert rate[0]["type"] == "number"
    assert rate[1] == {"type": "string", "pattern": r"\$\{([\w-]*)\}"}  # a variable may stand anywhere
    assert settings["additionalProperties"] is False


def test_settings_are_shown_as_dotted_names_and_values_that_yaml_reads_back():
    rows = recipes.plain({"a": {"b": 1e-05, "c": [1, "x"]}, "d": None, "e": "两", "f": {}})
    assert rows == {"a.b": "1.0e-05", "a.c": "[1, x]", "d": "null", "e": "两", "f": "{}"}
