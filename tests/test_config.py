"""Settings: YAML and `key=value` in the same names, and what is wrong said in three lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, create_model, model_validator

from thinkling.core import known_names, shelf
from thinkling.core.config import Config, known_keys, parse_override, read_yaml, read_yaml_file, resolve
from thinkling.core.errors import ConfigError
from thinkling.core.known_names import ours


class Inner(Config):
    every: int = 10


class Outer(Config):
    learning_rate: float = Field(1e-4, gt=0)
    name: str = "a"
    inner: Inner = Inner()
    needed: int


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4", ".1e-3", "+1e-4"])
def test_a_small_number_is_a_number_however_it_is_written(text: str):
    assert read_yaml(text, "here") == 0.0001


@pytest.mark.parametrize("text", ["e5", "1e", "1-4", "a1e-4", "'1e-4'", "1.2.3"])
def test_what_only_looks_like_a_number_stays_text(text: str):
    assert isinstance(read_yaml(text, "here"), str)


USUAL_FAULTS = [
    (Annotated[int, Field(gt=1)], 1, "应大于 1"),
    (Annotated[int, Field(ge=1)], 0, "应大于或等于 1"),
    (Annotated[float, Field(lt=1)], 1.0, "应小于 1"),
    (Annotated[float, Field(le=0.5)], 2.0, "应小于或等于 0.5"),
    (Literal["a", "b"], "c", "应为 'a' or 'b'"),
    (int, "x", "应为整数"),
    (int, 1.5, "应为整数"),
    (int, [], "应为整数"),
    (float, "x", "应为数字"),
    (float, [], "应为数字"),
    (Annotated[float, Field(allow_inf_nan=False)], float("inf"), "应为有限的数"),
    (str, 1, "应为文字"),
    (tuple[int, ...], 3, "应为列表"),
    (bool, "x", "应为真或假"),
]


@pytest.mark.parametrize(("wanted", "given", "chinese"), USUAL_FAULTS, ids=str)
def test_a_usual_fault_is_told_in_pydantics_words_and_in_chinese(
    wanted: object, given: object, chinese: str, monkeypatch: pytest.MonkeyPatch
):
    kind = create_model("Kind", __base__=Config, setting=(wanted, ...))
    with pytest.raises(ValidationError) as own:
        kind.model_validate({"setting": given})
    said = {}
    for language in ("en", "zh"):
        monkeypatch.setenv("THINKLING_LANG", language)
        with pytest.raises(ConfigError) as caught:
            resolve(kind, {"setting": given}, "here")
        said[language] = caught.value.what
    own_words = own.value.errors()[0]["msg"].replace("a valid tuple", "a list")
    assert said["en"] == f"setting = {given!r}: {own_words}"
    assert said["zh"].startswith(f"setting = {given!r}: {chinese}")


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_every_number_that_python_writes_is_read_back(number: float):
    assert read_yaml(repr(number), "here") == number


def test_broken_yaml_names_its_line():
    with pytest.raises(ConfigError) as caught:
        read_yaml("a: 1\nb: [1,\nc: }", "recipe.yaml")
    assert caught.value.where == "recipe.yaml, line 3"


def test_a_key_that_stands_twice_is_an_error_not_a_choice():
    with pytest.raises(ConfigError, match="'lr' stands twice") as caught:
        read_yaml("a:\n  lr: 1\n  lr: 2\n", "recipe.yaml")
    assert caught.value.where == "recipe.yaml, line 3"
    assert read_yaml("a: {lr: 1}\nb: {lr: 2}", "recipe.yaml") == {"a": {"lr": 1}, "b": {"lr": 2}}


def test_yaml_that_would_build_an_object_is_refused():
    with pytest.raises(ConfigError):
        read_yaml("!!python/object/apply:os.system ['true']", "recipe.yaml")


def test_a_file_that_is_not_there_or_not_text_is_an_error_with_its_path(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        read_yaml_file(tmp_path / "no.yaml")
    assert caught.value.where == str(tmp_path / "no.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError):
        read_yaml_file(tmp_path / "bytes.yaml")


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("learning_rate=1e-4", ["learning_rate"], 1e-4),
        ("sft.data=[{task: sums, n: 3}]", ["sft", "data"], [{"task": "sums", "n": 3}]),
        ("a.b.c=true", ["a", "b", "c"], True),
        ("name=x=y", ["name"], "x=y"),
        ("system=", ["system"], None),
    ],
)
def test_an_override_is_keys_and_a_yaml_value(text: str, keys: list[str], value: object):
    assert parse_override(text) == (keys, value)


@pytest.mark.parametrize("text", ["learning_rate", "=3", "", " = 3", "sft..seed=1", ".seed=1", "sft.=1"])
def test_an_override_without_key_or_sign_is_refused(text: str):
    with pytest.raises(ConfigError, match="is not a setting"):
        parse_override(text)


def test_an_unknown_key_is_refused_with_the_closest_name():
    with pytest.raises(ConfigError, match="unknown setting 'lerning_rate'") as caught:
        resolve(Outer, {"needed": 1, "lerning_rate": 1e-3}, "recipe.yaml")
    assert caught.value.fix == "did you mean 'learning_rate'?"
    assert caught.value.where == "recipe.yaml"


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("lr", "its name here is learning_rate"),
        ("model_name_or_path", "its name here is model"),
        ("evaluation_strategy", "its name here is eval_steps (every N steps"),
        ("eval_strategy", "its name here is eval_steps"),
        ("per_device_train_batch_size", "its name here is batch_size (rows of one update"),
        ("max_seq_length", "its name here is cutoff_len"),
        ("max-length", "its name here is cutoff_len"),
        ("num_epochs", "its name here is num_train_epochs"),
        ("output_dir", "its name here is run_dir"),
        ("dataset", "its name here is data"),
        ("num_warmup_steps", "its name here is warmup_steps"),
        ("gradient_accumulation_steps", "leave it out: a step is split exactly"),
        ("bf16", "leave it out: the number type is chosen"),
        ("do_train", "leave it out: a stage trains because"),
        ("lora_rank", "its name here is tuning.rank (what is trained, such as tuning='{method: lora, rank: 16}')"),
        ("target_modules", "its name here is tuning.targets"),
        ("use_peft", "its name here is tuning (what is trained"),
        ("lora_dropout", "its name here is tuning.dropout"),
        ("load_in_4bit", "leave it out: the base model stays"),
    ],
)
def test_a_name_from_another_tool_is_told_ours(name: str, fix: str):
    from thinkling.stages.sft import Config as Sft

    with pytest.raises(ConfigError, match="unknown setting") as caught:
        resolve(Sft, {"model": "m", "data": [{"task": "sums"}], name: 1}, "recipe.yaml")
    assert fix in caught.value.fix


def test_a_name_from_another_tool_is_told_ours_within_tuning_too():
    from thinkling.stages.sft import Config as Sft

    values = {"model": "m", "data": [{"task": "sums"}], "tuning": {"method": "lora", "lora_alpha": 1}}
    with pytest.raises(ConfigError, match="unknown setting 'lora_alpha'") as caught:
        resolve(Sft, values, "recipe.yaml")
    assert caught.value.fix == "its name here is alpha"


def test_a_name_of_ours_that_has_no_effect_here_is_not_offered():
    assert ours("eval_strategy", ["learning_rate"]) == ""
    assert ours("learning_rates", ["learning_rate"]) == ""


def test_every_name_that_is_offered_is_a_setting_and_no_name_is_told_two_things():
    from thinkling.stages import evaluate, sft

    kinds = (sft.Config, sft.DataSpec, evaluate.Config, evaluate.TaskSpec)
    settings = {key for kind in kinds for key in known_keys(kind)} | {"run_dir"}
    assert set(known_names.OURS) <= settings
    assert set(known_names.NOTES) <= set(known_names.OURS)
    within = {key for name in shelf.names("tuning") for key in known_keys(shelf.entry("tuning", name).Config)}
    assert set(known_names.TUNING) <= within
    tables = (known_names.OURS, known_names.TUNING, known_names.NOT_NEEDED)
    others = [name for table in tables for names in table.values() for name in names]
    assert len(others) == len(set(others))
    assert [name for name in others if name in known_keys(sft.Config)] == []


def test_an_unknown_key_in_a_nested_setting_is_measured_against_its_neighbours():
    with pytest.raises(ConfigError, match=r"unknown setting 'inner\.evry'") as caught:
        resolve(Outer, {"needed": 1, "inner": {"evry": 1}}, "recipe.yaml")
    assert caught.value.fix == "did you mean 'every'?"


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({}, "'needed' is missing"),
        ({"needed": "many"}, "needed = 'many'"),
        ({"needed": 1, "learning_rate": -1}, "learning_rate = -1"),
        ({"needed": 1, "inner": {"every": "x"}}, "inner.every = 'x'"),
    ],
)
def test_what_is_missing_or_of_the_wrong_type_is_named(values: dict[str, object], word: str):
    with pytest.raises(ConfigError) as caught:
        resolve(Outer, values, "recipe.yaml")
    assert word in caught.value.what
    assert caught.value.fix


def test_settings_cannot_be_changed_after_they_are_read():
    with pytest.raises(ValidationError, match="frozen"):
        resolve(Outer, {"needed": 1}, "here").needed = 2  # type: ignore[misc]


def test_known_keys_are_those_of_the_settings_at_that_place():
    assert known_keys(Outer) == ["inner", "learning_rate", "name", "needed"]
    assert known_keys(Outer, ("inner",)) == ["every"]


class Several(Config):
    learning_rate: float = 1e-4
    max_steps: int | None = None
    is_on: bool = False
    names: dict[str, bool] = {}  # noqa: RUF012

    @model_validator(mode="after")
    def _check(self) -> Several:
        if self.max_steps == 13:
            raise ValueError("max_steps and is_on do not go together")
        return self


def test_a_switch_where_a_number_is_wanted_is_refused_and_a_switch_is_taken():
    for values in ({"learning_rate": True}, {"max_steps": read_yaml("yes", "here")}):
        with pytest.raises(ConfigError, match="this is a switch"):
            resolve(Several, values, "here")
    assert resolve(Several, {"is_on": True, "names": {"a": True}}, "here").is_on


def test_what_is_wrong_between_settings_is_told_without_all_of_them():
    with pytest.raises(ConfigError) as caught:
        resolve(Several, {"max_steps": 13, "is_on": True}, "here")
    assert caught.value.what == "max_steps and is_on do not go together"


@pytest.mark.parametrize("text", ["a: &a\n  b: *a\n", "[" * 5000])
def test_yaml_that_holds_itself_or_has_no_bottom_is_refused(text: str):
    with pytest.raises(ConfigError, match="YAML"):
        read_yaml(text, "recipe.yaml")
