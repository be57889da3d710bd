"""The settings of the loop, the same for every stage: those of its parts, and its own."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, model_validator

from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.engine.averaging import AveragingConfig
from thinkling.engine.reporting import LoggerNames
from thinkling.engine.schedule import ScheduleConfig, refuse_schedule
from thinkling.engine.selection import SelectionConfig, refuse_unseen_metrics
from thinkling.engine.spikes import SpikeConfig


class TrainerConfig(ScheduleConfig, SelectionConfig, AveragingConfig, SpikeConfig):
    """Settings of the loop, the same for every stage."""

    learning_rate: float = Field(1e-4, gt=0)
    """Peak; AdamW's."""
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients of a larger global norm are scaled down to it; 0 leaves them."""
    micro_batch_tokens: int = Field(4096, ge=1)
    """Most tokens in one forward pass; decides memory, never the result. A single longer row still goes whole."""
    head_chunk: int = Field(512, ge=1)
    """Predictions whose logits exist at once."""
    torch_compile: bool = False
    """Compile the element-wise functions by torch: some per cent faster, after half a minute the first time on a
    machine and some seconds from then on. Results differ in the last bits. Needs a C++ compiler."""
    save_steps: int = Field(0, ge=0)
    """A checkpoint every so many steps; 0: at the end only."""
    save_total_limit: int = Field(2, ge=1)
    """Newest checkpoints kept."""
    eval_steps: int = Field(0, ge=0)
    """Validation every so many steps, beside the one before the first and the one after the last; 0: only those."""
    logging_steps: int = Field(1, ge=1)
    """A line of metrics every so many steps; above 1 it also has the largest loss and gradient norm since the last."""
    update_ratio_steps: int = Field(10, ge=0)
    """The size of an update against that of the weights is measured every so many steps; 0: never."""
    report_to: LoggerNames = ("tensorboard",)
    """Where the curves go beside the run folder: tensorboard, swanlab, trackio, wandb; []: nowhere."""

    @model_validator(mode="after")
    def _what_reads_checkpoints_has_some(self) -> TrainerConfig:
        reading = reads_checkpoints(self)
        if reading and not self.save_steps:
            raise ValueError(tr("{settings} needs checkpoints on the way: set save_steps", settings=", ".join(reading)))
        if self.final_model == "average" and self.average is None:
            raise ValueError(tr("final_model: average needs average"))
        return self


def refuse_length(config: TrainerConfig, steps: int, validated: Sequence[str]) -> None:
    """Refuse settings that a run of so many steps cannot carry out.

    Args:
        validated: The metrics that its validations measure.

    Raises:
        ConfigError: The schedule is longer than the run, or a setting reads looks or checkpoints that are not made.
    """
    refuse_schedule(config, steps)
    refuse_unmade_checkpoints(config, steps)
    refuse_unseen_metrics(config, validated, config.eval_steps, steps)


def refuse_unmade_checkpoints(config: TrainerConfig, steps: int) -> None:
    """Refuse settings that read checkpoints on the way where the run of so many steps makes none.

    Raises:
        ConfigError: save_steps is no smaller than the run is long.
    """
    reading = reads_checkpoints(config)
    if reading and config.save_steps >= steps:
        said = "{settings} needs checkpoints on the way, and save_steps {every} is not below the {steps} steps"
        raise ConfigError(
            tr(said, settings=", ".join(reading), every=config.save_steps, steps=steps),
            where="save_steps",
            fix=tr("lower save_steps, or leave {settings} out", settings=", ".join(reading)),
        )


def reads_checkpoints(config: TrainerConfig) -> list[str]:
    """The settings that read checkpoints made on the way."""
    reading = ["average: last"] if config.average == "last" else []
    return reading + (["spike_action: rollback"] if config.spike_action == "rollback" else [])
