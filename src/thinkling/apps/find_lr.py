"""`thinkling find-lr`: a range test on a recipe's own data and model, as a table and a line of advice.

It trains in memory and saves no weights; the table stays as metrics.jsonl of a run folder, the advice in its done.json.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run
from thinkling.recipes.loading import REFERENCE, Recipe, StageSpec
from thinkling.recipes.promises import starting_model

if TYPE_CHECKING:
    from thinkling.engine.range_test import Advice, Probe

SHOWN = 16
"""Rows of the table; all of them stand in metrics.jsonl."""


def training_stage(recipe: Recipe, name: str | None) -> StageSpec:
    """The stage whose rate is looked for: the named one, or the only one that trains.

    Raises:
        ConfigError: There is none, or there are several and none is named.
    """
    training = {stage.name: stage for stage in recipe.stages if hasattr(stage.module, "probe_rates")}
    if name is None and len(training) == 1:
        return next(iter(training.values()))
    if name in training:
        return training[name]
    where = tr("stages that train: {names}", names=", ".join(training) or "-")
    if name is not None:
        said = tr("'{name}' is no stage of this recipe that trains", name=name)
        raise ConfigError(said, where=where, fix=tr("name one of them with --stage"))
    said = tr("this recipe trains several models") if training else tr("this recipe trains no model")
    raise ConfigError(
        said, where=where, fix=tr("name one of them with --stage") if training else tr("take another recipe")
    )


def find_learning_rate(
    recipe: Recipe, stage: StageSpec, folder: Path, progress: Progress, *, low: float, high: float, steps: int
) -> tuple[list[Probe], Advice]:
    """Carry out the range test and write it down.

    Raises:
        ConfigError: The range is none.
        ThinklingError: What the stage would refuse before its first step.
    """
    from thinkling.engine.range_test import advise

    if not 0 < low < high < math.inf or steps < 3:
        said = tr("there is no range from {low} to {high} in {steps} steps", low=low, high=high, steps=steps)
        raise ConfigError(said, where="--low, --high, --steps", fix=tr("give 0 < low < high, and 3 steps or more"))
    config = stage.config
    model = getattr(config, "model", None)
    if isinstance(model, str) and REFERENCE.fullmatch(model):
        start = starting_model(model, recipe)
        progress.note(tr("{model} is not made yet: tried on {start}, from which it begins", model=model, start=start))
        config = config.model_copy(update={"model": start})
    run = Run.start(folder, {**stage.settings, "find_lr": {"low": low, "high": high, "steps": steps}})
    try:
        run.keep_steps_up_to(-1)  # of a test in this folder before this one
        probes: list[Probe] = stage.module.probe_rates(config, progress, low=low, high=high, steps=steps)
        for probe in probes:
            facts = {"learning_rate": probe.learning_rate, "loss/train": probe.loss, "loss/smoothed": probe.smoothed}
            run.log(probe.step, facts)
        advice = advise(probes, steps)
        run.finish("finished", **advice.facts())
    finally:
        run.close()
    return probes, advice


def show(probes: Sequence[Probe], advice: Advice, stage: str, console: Console) -> None:
    """The table, thinned out, and the advice."""
    table = Table(box=None, pad_edge=False)
    for title in (tr("step"), "learning_rate", tr("loss"), tr("smoothed")):
        table.add_column(title, justify="right")
    every = max(1, -(-len(probes) // SHOWN))
    for probe in [p for p in probes if p.step % every == 0 or p.step in (1, len(probes))]:
        table.add_row(f"{probe.step}", f"{probe.learning_rate:.2e}", f"{probe.loss:.3f}", f"{probe.smoothed:.3f}")
    console.print(table)
    console.print(in_words(advice, stage), soft_wrap=True)


def in_words(advice: Advice, stage: str) -> str:
    """One line of advice, or why there is none."""
    if advice.learning_rate is None:
        return tr("nothing was learnt at any rate of this range: give another with --low and --high, or more --steps")
    facts = {name: f"{value:.1e}" for name, value in advice.facts().items() if isinstance(value, float)}
    said = tr("the loss fell fastest at {steepest} and was lowest at {lowest}", **facts)
    tried = tr("try {stage}.learning_rate={rate}, a tenth of that", stage=stage, rate=facts["learning_rate"])
    more = (
        "" if advice.broke else "; " + tr("it was still falling at the end of the range: a higher --high may show more")
    )
    return f"{said}; {tried}{more}"
