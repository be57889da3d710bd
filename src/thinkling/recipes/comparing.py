"""A recipe of one training, multiplied: the same data through several tuning methods, each scored, then one table.

The result is a recipe like any other: a dry run, going on after a stop and a folder for each run come with that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkling.core import shelf
from thinkling.core.config import parse_override
from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.recipes.loading import REFERENCE, Recipe, StageSpec, build

BASE = "base"
TABLE = "table"


@dataclass(frozen=True)
class Method:
    """One training of the comparison."""

    label: str
    tuning: dict[str, Any]
    """The setting `tuning` of the training."""
    settings: dict[str, Any]
    """Further settings of the training that only this method has, such as learning_rate."""


def multiplied(recipe: Recipe, methods: Sequence[str]) -> Recipe:
    """The recipe's training once by each method, each evaluated as the base model is, and a table of all.

    Args:
        recipe: With one stage `sft`, and before it a stage `evaluate` of the model that it starts from.
        methods: NAME, or NAME:KEY=VALUE with settings of the method or of its training, again after a colon.

    Raises:
        ConfigError: Fewer than two methods, one that stands twice or is not known, or a recipe of another form.
    """
    training, evaluation = _parts(recipe)
    read = [read_method(text, training) for text in methods]
    _refuse_too_few(read)
    stages: list[dict[str, Any]] = [{evaluation.kind: {**evaluation.settings, "name": BASE}}]
    for method in read:
        stages.append({training.kind: _training(training, method)})
        scored = {**evaluation.settings, "name": f"{method.label}-score", "model": f"@{method.label}"}
        stages.append({evaluation.kind: {**scored, "versus": f"@{BASE}"}})
    own = {
        "name": TABLE,
        "before": f"@{BASE}",
        "trainings": [f"@{method.label}" for method in read],
        "evaluations": [f"@{method.label}-score" for method in read],
    }
    values = {"name": recipe.name, "about": recipe.about, "stages": [*stages, {"compare": own}]}
    return build(values, where="thinkling compare", name=recipe.name)


def _parts(recipe: Recipe) -> tuple[StageSpec, StageSpec]:
    """(the training, the evaluation before it)."""
    trainings = [stage for stage in recipe.stages if stage.kind == "sft"]
    where = tr("recipe {name}", name=recipe.name)
    if len(trainings) != 1:
        raise ConfigError(
            tr("a comparison needs a recipe of one training, and this one has {n}", n=len(trainings)),
            where=where,
            fix=tr("name another one with --recipe, or leave it out"),
        )
    training = trainings[0]
    earlier = recipe.stages[: recipe.stages.index(training)]
    model = training.settings["model"]
    evaluations = [stage for stage in earlier if stage.kind == "evaluate" and stage.settings["model"] == model]
    if not evaluations or REFERENCE.fullmatch(model):
        raise ConfigError(
            tr("a comparison needs the model it starts from evaluated before the training"),
            where=where,
            fix=tr("put an evaluate stage of the same model before it, or take another recipe with --recipe"),
        )
    return training, evaluations[0]


def read_method(text: str, training: StageSpec) -> Method:
    """`lora:rank=4:learning_rate=1e-3` as the settings of a method and of its training.

    Raises:
        ConfigError: No such method, or something after a colon that is no setting.
    """
    name, *parts = text.split(":")
    entry = shelf.entry("tuning", name)
    tuning: dict[str, Any] = {"method": name}
    settings: dict[str, Any] = {}
    for part in parts:
        [key, *inner], value = parse_override(part)
        if inner:
            raise ConfigError(
                tr("'{text}' is not a setting of one method", text=part), where=text, fix=tr("write KEY=VALUE")
            )
        is_own = key in entry.Config.model_fields or key not in type(training.config).model_fields
        (tuning if is_own else settings)[key] = value
    label = "-".join([Path(name).stem, *(re.sub(r"[^\w]+", "-", part).strip("-") for part in parts)])
    rate = getattr(entry, "LEARNING_RATE", None)
    if rate is not None and "learning_rate" not in training.config.model_fields_set:
        settings = {"learning_rate": rate, **settings}
    return Method(label, tuning, settings)


def _training(training: StageSpec, method: Method) -> dict[str, Any]:
    return {**training.settings, **method.settings, "name": method.label, "tuning": method.tuning}


def _refuse_too_few(methods: Sequence[Method]) -> None:
    labels = [method.label for method in methods]
    known = ", ".join(shelf.names("tuning"))
    if len(labels) < 2:
        raise ConfigError(
            tr("a comparison needs two methods or more"),
            where="thinkling compare",
            fix=tr("thinkling compare full lora, of these: {names}", names=known),
        )
    twice = [label for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if twice:
        raise ConfigError(
            tr("the method '{name}' stands twice", name=twice[0]),
            where="thinkling compare",
            fix=tr("give one of them other settings: {name}:KEY=VALUE", name=twice[0]),
        )
