"""What the stages of a recipe would do and need, said before any of them runs. Nothing is written, nothing is fetched.

A stage may have `promise(config, progress) -> Mapping[str, str]`: its plan in words, made by the same functions as its
run. A model that an earlier stage is yet to make is stood in for by the one that stage starts from: of equal size.
"""

from __future__ import annotations

from collections.abc import Mapping

from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.recipes.loading import REFERENCE, Recipe, StageSpec


def promise(stage: StageSpec, recipe: Recipe, progress: Progress) -> Mapping[str, str]:
    """The plan of one stage in words; empty for a stage that promises nothing.

    Raises:
        ThinklingError: What the stage would refuse before its first step.
    """
    tell = getattr(stage.module, "promise", None)
    if tell is None:
        return {}
    config, model = stage.config, getattr(stage.config, "model", None)
    if isinstance(model, str) and REFERENCE.fullmatch(model):
        start = starting_model(model, recipe)
        if start is None:
            return {"plan": tr("known after {model}", model=model)}
        config = config.model_copy(update={"model": start})
    words: Mapping[str, str] = tell(config, progress)
    return words


def starting_model(model: object, recipe: Recipe) -> str | None:
    """The model at the beginning of a chain of @STAGE; None where a stage of the chain starts from none."""
    configs = {stage.name: stage.config for stage in recipe.stages}
    while isinstance(model, str) and (reference := REFERENCE.fullmatch(model)):
        model = getattr(configs[reference[1]], "model", None)
    return model if isinstance(model, str) else None
