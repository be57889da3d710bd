"""A recipe as a Python script: the same stages with the same settings through the library, short enough to read.

For whoever outgrows YAML. Only settings that differ from their defaults are written; the script makes the same run
folders, so that what one has begun the other can look at.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from thinkling.core.config import Config
from thinkling.recipes.loading import Recipe, StageSpec

WIDTH = 110
BEGIN = '''\
"""{about}

This does what `thinkling run` does with the recipe {name}; python THIS_FILE carries it out.
"""

from pathlib import Path

{imports}

RUN_DIR = Path({run_dir})
{private}

def carry_out(stage, config, progress, earlier):
    """One stage, in a folder of its own; later stages find it in `earlier` under its name."""
    run = Run.start(RUN_DIR / config.name, config.model_dump(mode="json"))
    try:
        stage.run(config, run, progress, earlier)
    finally:
        run.close()
    earlier[config.name] = run


with Terminal() as progress:
    earlier = {{}}
{stages}
'''


def script(recipe: Recipe, run_dir: Path) -> str:
    """The script's text. Running it in the folder where the recipe would be run does the same."""
    kinds = {stage.kind: stage.module for stage in recipe.stages}
    private = {kind: _variable(kind) for kind in kinds if kind.endswith(".py")}
    ours = sorted(kind for kind in kinds if kind not in private)
    imports = ["from thinkling.apps.console import Terminal", "from thinkling.core.run import Run"]
    imports += ["from thinkling.core.shelf import entry"] if private else []
    imports += [f"from thinkling.stages import {', '.join(ours)}"] if ours else []
    lines = [f'{name} = entry("stages", {_text(kind)})' for kind, name in private.items()]
    return BEGIN.format(
        about=(recipe.about or f"The recipe {recipe.name}.").replace("\\", "/").replace('"""', "'''"),
        name=recipe.name,
        imports="\n".join(imports),
        run_dir=_text(str(run_dir)),
        private="".join(f"{line}\n" for line in lines),
        stages="\n".join(_stage(stage, private.get(stage.kind, stage.kind)) for stage in recipe.stages).rstrip("\n"),
    )


def _variable(path: str) -> str:
    """What the script calls a private stage: `./my-stage.py` is my_stage."""
    name = "".join(c if c.isalnum() else "_" for c in Path(path).stem)
    return name if name.isidentifier() else f"stage_{name}"


def _stage(stage: StageSpec, name: str) -> str:
    config = _settings(stage.config, stage.module, name, 4)
    return f"    config = {config}\n    carry_out({name}, config, progress, earlier)\n"


def _settings(config: Config, module: ModuleType, name: str, indent: int) -> str:
    """`sft.Config(model="…", …)`: the settings that differ from the defaults."""
    kind = type(config)
    if getattr(module, kind.__name__, None) is not kind:  # a class from elsewhere: its values do as well
        return _value(config.model_dump(exclude_defaults=True), module, name, indent)
    # A stage's own settings before those it shares with others.
    fields = sorted(kind.model_fields.items(), key=lambda item: item[0] not in kind.__annotations__)
    changed = {key: getattr(config, key) for key, field in fields if getattr(config, key) != field.default}
    parts = [f"{key}={_value(value, module, name, indent + 4)}" for key, value in changed.items()]
    return _between(f"{name}.{kind.__name__}(", parts, ")", indent)


def _value(value: Any, module: ModuleType, name: str, indent: int) -> str:
    if isinstance(value, Config):
        return _settings(value, module, name, indent)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Mapping):
        parts = [f"{_text(str(key))}: {_value(inner, module, name, indent + 4)}" for key, inner in value.items()]
        return _between("{", parts, "}", indent)
    if isinstance(value, list | tuple):
        return _between("[", [_value(inner, module, name, indent + 4) for inner in value], "]", indent)
    return repr(value)


def _between(begin: str, parts: list[str], end: str, indent: int) -> str:
    """All on one line where it fits, else one part a line."""
    line = begin + ", ".join(parts) + end
    if len(line) + indent <= WIDTH and "\n" not in line:
        return line
    inner = "".join(f"{' ' * (indent + 4)}{part},\n" for part in parts)
    return f"{begin}\n{inner}{' ' * indent}{end}"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
