"""Settings: frozen pydantic models, unknown keys forbidden with the closest name, YAML and `key=value` of one naming.

A setting has one home, a field of the `Config` beside the code it steers. This file knows how to read such settings and
how to say what is wrong with them; it knows none of them itself.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from thinkling.core.errors import ConfigError
from thinkling.core.known_names import NOTES, ours
from thinkling.core.language import tr
from thinkling.core.shelf import closest


class Config(BaseModel):
    """Base of all settings: frozen, unknown keys forbidden, defaults checked too."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic would read `true`, and YAML's `yes` and `on`, as the number 1."""
        if isinstance(value, bool) and not _takes_a_switch(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(tr("this is a switch (true, yes, on or their like), and another kind of value is wanted"))
        return value


def _takes_a_switch(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_a_switch, get_args(annotation)))


C = TypeVar("C", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads `1e-4` as text; here it is the number everybody means. A key that stands twice is an error, and so
    is a value that holds itself."""

    def construct_document(self, node: yaml.Node) -> Any:
        self.deep_construct = True  # or an anchor could be used within what it names, and reading it would never end
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:str" and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key '{key.value}' stands twice", problem_mark=key.start_mark
                )
            seen.add(key.value if key.tag == "tag:yaml.org,2002:str" else None)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+0123456789.")
)


def read_yaml(text: str, where: str) -> Any:
    """YAML to plain values.

    Raises:
        ConfigError: Not YAML; names the line.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader with one more number
    except RecursionError as error:
        raise ConfigError(tr("this YAML is nested too deeply"), where=where, fix=tr("write it flatter")) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = tr(", line {n}", n=mark.line + 1) if mark else ""
        raise ConfigError(
            tr("this is not YAML: {problem}", problem=getattr(error, "problem", error)),
            where=f"{where}{line}",
            fix=tr("mend this line"),
        ) from error


def read_yaml_file(path: Path) -> Any:
    """A YAML file to plain values.

    Raises:
        ConfigError: No such file, not UTF-8, not YAML.
    """
    try:
        return read_yaml(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        said = tr("cannot read {file}: {error}", file=path.name, error=error)
        raise ConfigError(said, where=str(path), fix=tr("check the path")) from error


def parse_override(text: str) -> tuple[list[str], Any]:
    """`sft.learning_rate=1e-4` to (["sft", "learning_rate"], 0.0001); the value is YAML.

    Raises:
        ConfigError: There is no `=`, or no key before it.
    """
    key, separator, value = text.partition("=")
    if not separator or not all(part.strip() for part in key.split(".")):
        raise ConfigError(
            tr("'{text}' is not a setting", text=text),
            where=tr("command line"),
            fix=tr("write key=value, with no spaces around the ="),
        )
    return key.strip().split("."), read_yaml(value, tr("the value of {key}", key=key))


def resolve(kind: type[C], values: dict[str, Any], where: str) -> C:
    """Plain values to a checked Config.

    Raises:
        ConfigError: Unknown key (with the closest name), wrong type, value out of range; the first one, in plain words.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise _explain(kind, error, where) from error


def _explain(kind: type[Config], error: ValidationError, where: str) -> ConfigError:
    first = error.errors()[0]
    path = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known, key = known_keys(kind, first["loc"][:-1]), str(first["loc"][-1])
        return ConfigError(
            tr("unknown setting '{path}'", path=path),
            where=where,
            fix=ours(key, known) or closest(key, known) or tr("known here: {names}", names=", ".join(known)),
        )
    if first["type"] == "missing":
        said = tr("the setting '{path}' is missing", path=path)
        return ConfigError(said, where=where, fix=tr("add {path}=…", path=path))
    said = _plain(first["msg"], first["type"], first.get("ctx", {}))
    if first["type"] == "value_error" and isinstance(first.get("input"), dict):
        # A check over several settings: its words name them, and all of them would fill the screen.
        return ConfigError(f"{path}: {said}" if path else said, where=where, fix=tr("change or leave out one of them"))
    note = f" ({NOTES[path]})" if path in NOTES else ""
    fix = tr("give {path} another value", path=path) + note
    return ConfigError(f"{path} = {first.get('input')!r}: {said}", where=where, fix=fix)


WORDS = {
    "greater_than": "Input should be greater than {gt:g}",
    "greater_than_equal": "Input should be greater than or equal to {ge:g}",
    "less_than": "Input should be less than {lt:g}",
    "less_than_equal": "Input should be less than or equal to {le:g}",
    "literal_error": "Input should be {expected}",
    "int_parsing": "Input should be a valid integer, unable to parse string as an integer",
    "int_from_float": "Input should be a valid integer, got a number with a fractional part",
    "int_type": "Input should be a valid integer",
    "float_parsing": "Input should be a valid number, unable to parse string as a number",
    "float_type": "Input should be a valid number",
    "finite_number": "Input should be a finite number",
    "string_type": "Input should be a valid string",
    "tuple_type": "Input should be a list",
    "bool_parsing": "Input should be a valid boolean, unable to interpret input",
}
"""What pydantic says of the usual faults, by its name of each, so that it can be said in other languages."""


def _plain(message: str, kind: str, facts: dict[str, Any]) -> str:
    if kind in WORDS:
        return tr(WORDS[kind], **facts) if facts else tr(WORDS[kind])
    return message.removeprefix("Value error, ").removeprefix("Assertion failed, ")


def known_keys(kind: type[Config], path: tuple[int | str, ...] = ()) -> list[str]:
    """The field names of a Config, or of the Config nested at `path` in it; a number in `path` is a place in a list."""
    for part in path:
        if isinstance(part, str) and part in kind.model_fields:
            kind = _config_within(kind.model_fields[part].annotation) or kind
    return sorted(kind.model_fields)


def _config_within(annotation: Any) -> type[Config] | None:
    """The Config in `Config`, `Config | None` or `tuple[Config, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _config_within(inner))), None)
