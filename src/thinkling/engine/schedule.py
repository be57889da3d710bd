"""Learning-rate schedules: pure functions of the step, and plateau also of the validation losses so far.

Nothing here remembers anything, so a resumed run has the rates of one never stopped. Every schedule rises linearly to 1
over its warm-up, reaches 1 at the warm-up's last step, and says beforehand where it does not fit the run.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, model_validator

from thinkling.core.config import Config
from thinkling.core.errors import ConfigError
from thinkling.core.language import tr

Schedule = Literal["constant", "linear", "cosine", "inverse_sqrt", "warmup_stable_decay", "plateau"]
OF_DECAY = ("decay_ratio", "decay_steps")
OF_PLATEAU = ("plateau_patience", "plateau_factor", "plateau_threshold")


class ScheduleConfig(Config):
    """How the learning rate goes over the run."""

    lr_scheduler_type: Schedule = "cosine"
    """After the warm-up: constant, linear, cosine, inverse_sqrt, warmup_stable_decay (constant, then a linear end) or
    plateau (lowered whenever the validation loss no longer falls)."""
    warmup_ratio: float | None = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0; above 0 it is 2 steps at least."""
    warmup_steps: int | None = Field(None, ge=0)
    """Those steps, instead of warmup_ratio; the peak is reached in the last of them."""
    minimum_learning_rate_ratio: float = Field(0.0, ge=0, le=1)
    """Where the schedule ends, or the least it comes to, as a share of the peak."""
    decay_ratio: float | None = Field(0.2, gt=0, le=1)
    """warmup_stable_decay: share of the steps, at the end, over which the rate falls."""
    decay_steps: int | None = Field(None, ge=1)
    """Those steps, instead of decay_ratio."""
    plateau_patience: int = Field(2, ge=0)
    """plateau: so many validations without improvement are borne; the next one lowers the rate."""
    plateau_factor: float = Field(0.5, gt=0, lt=1)
    """plateau: what the rate is multiplied with each time."""
    plateau_threshold: float = Field(0.0, ge=0)
    """plateau: nats that the validation loss must fall below its best to count as improved."""

    @model_validator(mode="before")
    @classmethod
    def _steps_or_share(cls, values: object) -> object:
        """Steps that are given take the place of the share's default; both are too much."""
        if not isinstance(values, dict):
            return values
        for steps, share in (("warmup_steps", "warmup_ratio"), ("decay_steps", "decay_ratio")):
            if values.get(steps) is not None:
                if values.get(share) is not None:
                    raise ValueError(tr("{a} and {b} both say the same thing; give one", a=steps, b=share))
                values = {**values, share: None}
        return values

    @model_validator(mode="after")
    def _each_setting_has_an_effect(self) -> ScheduleConfig:
        kind = self.lr_scheduler_type
        idle = self._set_among(OF_DECAY) if kind != "warmup_stable_decay" else []
        idle += self._set_among(OF_PLATEAU) if kind != "plateau" else []
        idle += self._set_among(("minimum_learning_rate_ratio",)) if kind == "constant" else []
        if idle:
            said = "{settings} has no effect with lr_scheduler_type: {kind}"
            raise ValueError(tr(said, settings=", ".join(idle), kind=kind))
        if self.warmup_steps == 1:
            said = "warmup_steps: 1 has no effect, for the peak is reached in its last step; give 0, or 2 and more"
            raise ValueError(tr(said))
        if self.warmup_ratio is None and self.warmup_steps is None:
            raise ValueError(tr("the warm-up has no length; give warmup_ratio or warmup_steps"))
        if kind == "warmup_stable_decay" and self.decay_ratio is None and self.decay_steps is None:
            raise ValueError(tr("the decay has no length; give decay_ratio or decay_steps"))
        return self

    def _set_among(self, names: Sequence[str]) -> list[str]:
        fields = type(self).model_fields
        return [name for name in names if getattr(self, name) not in (None, fields[name].default)]


def warmup_length(config: ScheduleConfig, steps: int) -> int:
    """Steps of the warm-up. A share above 0 gives 2 at least: a warm-up of one step would begin at the peak."""
    if config.warmup_steps is not None:
        return config.warmup_steps
    ratio = config.warmup_ratio or 0.0
    return max(2, _nearest(ratio * steps)) if ratio and steps > 1 else 0


def decay_length(config: ScheduleConfig, steps: int) -> int:
    """Steps of the falling end of warmup_stable_decay; 0 of the others, which fall all the way or not at all."""
    if config.lr_scheduler_type != "warmup_stable_decay":
        return 0
    return config.decay_steps or max(1, _nearest((config.decay_ratio or 0.0) * steps))


def _nearest(number: float) -> int:
    # Not round(): it takes halves to the even neighbour, and a tenth of 5 steps would be none.
    return math.floor(number + 0.5)


def refuse_schedule(config: ScheduleConfig, steps: int) -> None:
    """A schedule that does not fit into the run is refused before it.

    Raises:
        ConfigError: The warm-up, or warm-up and decay together, are longer than the run.
    """
    warmup, decay = warmup_length(config, steps), decay_length(config, steps)
    if warmup + decay <= steps:
        return
    settings = "warmup_ratio" if config.warmup_steps is None else "warmup_steps"
    if decay:
        settings += ", decay_ratio" if config.decay_steps is None else ", decay_steps"
    facts = {"warmup": warmup, "decay": decay, "steps": steps}
    said = "the schedule is longer than the run: {warmup} steps of warm-up and {decay} of decay, and {steps} in all"
    raise ConfigError(
        tr(
            said if decay else "the schedule is longer than the run: {warmup} steps of warm-up, and {steps} in all",
            **facts,
        ),
        where=settings,
        fix=tr("shorten them, or train for more steps (max_steps, num_train_epochs)"),
    )


def rate_factor(config: ScheduleConfig, step: int, steps: int, validation_losses: Sequence[float] = ()) -> float:
    """What the learning rate of update `step` (from 1) of `steps` is multiplied with.

    Args:
        validation_losses: Nats, of every validation before this update, oldest first; only plateau reads them.
    """
    warmup = warmup_length(config, steps)
    if config.lr_scheduler_type == "plateau" and step > warmup:
        return plateau_factor(
            validation_losses,
            patience=config.plateau_patience,
            factor=config.plateau_factor,
            threshold=config.plateau_threshold,
            minimum=config.minimum_learning_rate_ratio,
        )
    return schedule_factor(
        config.lr_scheduler_type,
        step,
        warmup_steps=warmup,
        total_steps=steps,
        minimum=config.minimum_learning_rate_ratio,
        decay_steps=decay_length(config, steps),
    )


def schedule_factor(
    kind: Schedule, step: int, *, warmup_steps: int, total_steps: int, minimum: float, decay_steps: int = 0
) -> float:
    """What the learning rate of update number `step` (from 1) is multiplied with; of plateau, the warm-up alone.

    Linear warm-up to 1 over `warmup_steps`, then one of: constant; a linear or half-cosine (Loshchilov & Hutter 2017,
    arXiv:1608.03983, equation 5) fall; sqrt(warmup_steps / step) (Vaswani et al. 2017, arXiv:1706.03762, equation 3, as
    a share of its peak), never below `minimum`; or constant with a linear fall over the last `decay_steps` (Hu et al.
    2024, arXiv:2404.06395, section 4.2). Falls reach `minimum` one step after the last, so that the last one counts.
    """
    if step <= warmup_steps:
        return step / max(warmup_steps, 1)
    if kind in ("constant", "plateau"):
        return 1.0
    peak = max(warmup_steps, 1)
    if kind == "inverse_sqrt":
        return max(math.sqrt(peak / step), minimum)
    if kind == "warmup_stable_decay":
        peak = max(peak, total_steps - decay_steps)
    share = min(max((step - peak) / (total_steps + 1 - peak), 0.0), 1.0)
    fall = (1 + math.cos(math.pi * share)) / 2 if kind == "cosine" else 1 - share
    return minimum + (1 - minimum) * fall


def plateau_factor(losses: Sequence[float], *, patience: int, factor: float, threshold: float, minimum: float) -> float:
    """1, times `factor` for each time that more than `patience` losses in a row were no better than the best before.

    As torch's ReduceLROnPlateau counts, with an absolute threshold and no cooldown; told from the whole list each time,
    so that there is nothing to save.

    Example:
        >>> plateau_factor([3.0, 2.0, 2.0, 2.1, 2.0], patience=1, factor=0.5, threshold=0.0, minimum=0.0)
        0.5
    """
    best, bad, result = math.inf, 0, 1.0
    for loss in losses:
        improved = loss < best - threshold
        best, bad = (loss, 0) if improved else (best, bad + 1)
        if bad > patience:
            result, bad = max(result * factor, minimum), 0
    return result
