"""The report stage: what earlier stages measured and did, on one HTML page that opens offline.

It measures nothing itself. Everything on the page comes from the run folders it is handed, so that the page can be made
again at any time, and says no more than they do.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field

from thinkling.core.config import Config as BaseConfig
from thinkling.core.errors import ConfigError
from thinkling.core.files import write_atomically
from thinkling.core.language import language, tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run, referred
from thinkling.report.evidence import Evidence, gather
from thinkling.report.page import Page, render
from thinkling.report.words import next_commands


class Config(BaseConfig):
    """Settings of a report."""

    name: str = "report"
    """Name of the stage and of its run folder."""
    title: str = ""
    """Shown at the top of the page; the name of the recipe's folder when empty."""
    before: str | None = None
    """The evaluation of the model as it was: @STAGE or a run folder."""
    after: str | None = None
    """The evaluation of what became of it. One of the two can be left out."""
    training: str | None = None
    """The training between them, for its curves and its promises."""
    reference: str | None = None
    """Another training, whose loss is drawn over this one's: @STAGE or the run folder of a training."""
    language: Literal["en", "zh", "both"] = "both"
    """With `both` the page opens in the language of the environment and has a switch."""
    margin: float = Field(default=0.05, gt=0, lt=1)
    """A difference counts as none when its interval lies inside this margin, as a share of all problems."""
    examples: int = Field(default=10, ge=0, le=100)
    """Outputs shown before and after, side by side."""


def run(config: Config, run: Run, progress: Progress, earlier: Mapping[str, Run]) -> Path:
    """Write report.html: beside the recipe when the stage is part of one, otherwise into its own folder.

    Raises:
        ConfigError: `before`, `after`, `training` or `reference` names no earlier stage.
        RunError: It names no run folder, there is no evaluation, or a file of one is damaged.
    """
    started = time.monotonic()
    whole = _recipe_around(run)
    evidence = gather(
        before=_named(config.before, "before", earlier),
        after=_named(config.after, "after", earlier),
        training=_named(config.training, "training", earlier),
        reference=_named(config.reference, "reference", earlier),
        name=config.title or whole.path.name,
    )
    write_atomically(whole.report_file, render(evidence, _page(config, evidence, whole)))
    progress.note(tr("report: {file}", file=whole.report_file))
    run.finish("finished", minutes=(time.monotonic() - started) / 60, page=str(whole.report_file))
    return whole.report_file


def _page(config: Config, evidence: Evidence, whole: Run) -> Page:
    return Page(
        title=config.title,
        languages=page_languages(config.language),
        margin=config.margin,
        examples=config.examples,
        commands=next_commands(evidence, whole.path),
    )


def page_languages(choice: str) -> tuple[str, ...]:
    """The languages of the page, the one it opens in first."""
    if choice != "both":
        return (choice,)
    return ("zh", "en") if language() == "zh" else ("en", "zh")


def _named(name: str | None, setting: str, earlier: Mapping[str, Run]) -> Run | None:
    """The run that a setting names: @STAGE, or a run folder."""
    if name is None:
        return None
    if name in earlier:
        raise ConfigError(
            tr("{setting} = '{name}' is the name of a stage", setting=setting, name=name),
            where="report",
            fix=tr("write {setting}: '@{name}'", setting=setting, name=name),
        )
    return Run.open(Path(referred(name, earlier)))


def _recipe_around(run: Run) -> Run:
    """The recipe's folder when this stage's folder lies in one; otherwise the stage's own."""
    around = Run(run.path.resolve().parent)
    return around if around.recipe_file.is_file() else run
