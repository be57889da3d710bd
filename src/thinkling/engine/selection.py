"""Which checkpoint is the run's model, and when there is no use in going on: read off the validations so far.

A look is what one validation found, with its step. Every decision is a pure function of the list of looks, which
travels in the checkpoint: a resumed run decides as one never stopped. The look before the first step is not among them,
for no checkpoint has its weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from thinkling.core.config import Config
from thinkling.core.errors import ConfigError
from thinkling.core.language import tr

Metric = Literal["loss/validation", "accuracy/validation"]
Look = Mapping[str, float]
"""`step` and the metrics of one validation."""


class SelectionConfig(Config):
    """Which weights are kept, which of them are the run's model, and when to stop early."""

    save_best: Metric | None = None
    """Keep the checkpoint that is best by this, beside the newest ones; it is RUN/best."""
    early_stopping: Metric | None = None
    """Stop once this is no longer improving."""
    early_stopping_patience: int = Field(3, ge=1)
    """Validations in a row without improvement that end the training."""
    early_stopping_threshold: float = Field(0.0, ge=0)
    """What counts as improvement must be larger than this: nats of loss, or share of right answers."""
    final_model: Literal["best", "last", "average"] | None = None
    """What the run's folder stands for once it has finished; None: the best where save_best is set, else the last."""

    @model_validator(mode="after")
    def _each_choice_has_an_effect(self) -> SelectionConfig:
        fields = SelectionConfig.model_fields
        names = ("early_stopping_patience", "early_stopping_threshold")
        idle = [name for name in names if getattr(self, name) != fields[name].default]
        if idle and self.early_stopping is None:
            raise ValueError(tr("{settings} has no effect without early_stopping", settings=", ".join(idle)))
        if self.final_model == "best" and self.save_best is None:
            raise ValueError(tr("final_model: best needs save_best"))
        return self


def metrics_needed(config: Any) -> dict[str, str]:
    """The settings that read a validation, each with the metric that it reads.

    Args:
        config: A TrainerConfig.
    """
    needed = {name: getattr(config, name) for name in ("save_best", "early_stopping") if getattr(config, name)}
    return needed | ({"lr_scheduler_type: plateau": "loss/validation"} if config.lr_scheduler_type == "plateau" else {})


def unseen_metric(config: Any, available: Sequence[str], eval_steps: int, steps: int | None = None) -> str | None:
    """What is wrong with a setting that reads validations where nothing measures its metric, or only the end does.

    Args:
        config: A TrainerConfig.
        available: What a validation of this run measures.
        steps: Of the run, where they are known.
    """
    for setting, metric in metrics_needed(config).items():
        if metric not in available:
            said = (
                "{setting} needs {metric}, which no validation measures: see validation, validation_rows, generate_rows"
            )
            return tr(said, setting=setting, metric=metric)
        if not eval_steps:
            said = "{setting} needs validations on the way, and there is one at the end only: set eval_steps"
            return tr(said, setting=setting)
        if steps is not None and eval_steps >= steps:
            said = "{setting} needs validations on the way, and eval_steps {every} is not below the {steps} steps"
            return tr(said, setting=setting, every=eval_steps, steps=steps)
    return None


def refuse_unseen_metrics(config: Any, available: Sequence[str], eval_steps: int, steps: int) -> None:
    """As `unseen_metric`, for the loop itself.

    Raises:
        ConfigError: A setting reads a validation that is not made.
    """
    said = unseen_metric(config, available, eval_steps, steps)
    if said is not None:
        readers = ", ".join(metrics_needed(config))
        lower = tr("lower eval_steps, or leave {settings} out", settings=readers)
        fix = tr("add it, or leave the setting out") if eval_steps < steps else lower
        raise ConfigError(said, where=readers, fix=fix)


def cost(look: Look, metric: Metric) -> float:
    """The metric as something to be small; what is no number is worse than any."""
    value = look[metric] if metric == "loss/validation" else -look[metric]
    return math.inf if math.isnan(value) else value


def best_look(looks: Sequence[Look], metric: Metric) -> Look | None:
    """The best look, the earliest among equals; None where there was none."""
    return min(looks, key=lambda look: (cost(look, metric), look["step"]), default=None)


def looks_without_improvement(looks: Sequence[Look], metric: Metric, threshold: float) -> int:
    """Looks since the last one that was better than all before it by more than `threshold`."""
    best, since = float("inf"), 0
    for look in looks:
        improved = cost(look, metric) < best - threshold
        best, since = (cost(look, metric), 0) if improved else (best, since + 1)
    return since


def reason_to_stop(looks: Sequence[Look], config: SelectionConfig) -> str | None:
    """Why training ends here, in words, or None."""
    if config.early_stopping is None:
        return None
    since = looks_without_improvement(looks, config.early_stopping, config.early_stopping_threshold)
    if since < config.early_stopping_patience:
        return None
    return tr("{metric} has not improved in {n} validations", metric=config.early_stopping, n=since)


def choice_of(config: SelectionConfig) -> Literal["best", "last", "average"]:
    """Which weights are the run's model."""
    return config.final_model or ("best" if config.save_best else "last")


def choice_in_words(config: SelectionConfig, looks: Sequence[Look], last_step: int) -> str:
    """The run's model, for people: its step, why it, and where the training ended."""
    choice = choice_of(config)
    best = best_look(looks, config.save_best) if config.save_best else None
    if choice == "best" and best is not None and config.save_best is not None:
        facts = {"step": round(best["step"]), "metric": config.save_best, "value": f"{best[config.save_best]:.4g}"}
        return tr(
            "the run's model is that of step {step}: best {metric}, {value}; {last} is the last",
            **facts,
            last=last_step,
        )
    if choice == "average":
        return tr("the run's model is the average at step {step}", step=last_step)
    return tr("the run's model is that of step {step}, the last", step=last_step)
