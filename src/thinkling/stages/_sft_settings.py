"""Settings of supervised fine-tuning, and what is refused before anything is read: those that contradict each other or
would have no effect."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from thinkling.core.config import Config as Settings
from thinkling.core.language import tr
from thinkling.data.prepare import MAX_LOST_ANSWERS
from thinkling.engine.selection import unseen_metric
from thinkling.engine.settings import TrainerConfig
from thinkling.engine.tuning import checked


class DataSpec(Settings):
    """Rows to train on: a file of conversations, or problems with worked solutions from a task."""

    file: str | None = None
    """JSONL or JSON in any known format."""
    format: str | None = None
    """A name from the shelf `formats`; None recognises it by its exact keys."""
    options: dict[str, Any] | None = None
    """Of that format, such as {calculator_marks: true} of gsm8k."""
    task: str | None = None
    """A name from the shelf `tasks`, or a file of your own."""
    level: int | None = None
    n: int | None = Field(None, ge=1)
    """How many rows; None: all of a file."""
    path: str | None = None
    """A file for tasks that come from a file."""
    weight: float = Field(1.0, gt=0)
    """How often each row comes in an epoch: 2 is twice, 0.25 every fourth row, other ones in the next epoch."""

    @model_validator(mode="after")
    def _check(self) -> DataSpec:
        if (self.file is None) == (self.task is None):
            raise ValueError(tr("name either a file or a task"))
        without_effect = [k for k in ("level", "path") if self.file is not None and getattr(self, k) is not None]
        without_effect += [k for k in ("format", "options") if self.task is not None and getattr(self, k)]
        if without_effect:
            raise ValueError(tr("{settings} has no effect here", settings=", ".join(without_effect)))
        return self

    @property
    def label(self) -> str:
        return self.file or (f"{self.task}" if self.level is None else f"{self.task}, level {self.level}")


class Config(TrainerConfig):
    """Settings of supervised fine-tuning, beside those of the loop."""

    name: str = "sft"
    model: str
    """Alias, folder, GGUF file, hub id, or @STAGE for what an earlier stage of the recipe trained."""
    data: tuple[DataSpec, ...] = Field(min_length=1)
    validation: tuple[DataSpec, ...] = ()
    """Held-out rows for the loss; tasks draw their validation split. Empty: that of each task in data."""
    validation_rows: int = Field(64, ge=0)
    """Most rows of the validation loss; 0: none."""
    generate_rows: int = Field(24, ge=0)
    """Held-out problems answered at each evaluation; 0: loss only."""
    max_new_tokens: int = Field(192, ge=1)
    """For those answers."""
    system: str | None = None
    """System message of rows made from tasks; None leaves the model's own default."""
    cutoff_len: int = Field(1024, ge=2)
    """Longest row, in tokens."""
    too_long: Literal["drop", "cut", "error"] = "drop"
    max_lost_answers: float = Field(MAX_LOST_ANSWERS, ge=0, le=1)
    """Share of rows that may lose the end of their answer before the run is refused."""
    num_train_epochs: float | None = Field(1.0, gt=0)
    """How often each row is trained on; None beside max_steps."""
    max_steps: int | None = Field(None, ge=1)
    """Updates, instead of num_train_epochs."""
    batch_tokens: int | None = Field(4096, ge=1)
    """Tokens of one update."""
    batch_size: int | None = Field(None, ge=1)
    """Rows of one update, instead of batch_tokens."""
    data_workers: int | None = Field(None, ge=0)
    """Processes that tokenise files; 0: none; None: one a core for files of 8 MiB and more. Changes no result."""
    memory_limit_gib: float | None = Field(None, gt=0)
    """The training is refused where its plan needs more, such as 8 for a card of 8 GB; None: what the device has."""
    price_per_hour: float | None = Field(None, ge=0)
    """Of the machine, in any currency; with it, the plan tells the money."""
    minutes_at_hand: float | None = Field(None, gt=0)
    """With it, the plan tells how many epochs so many minutes hold; it ends no training."""
    tuning: dict[str, Any] = Field({"method": "full"})
    """What is trained: {method: NAME} from the shelf `tuning`, with that method's settings."""
    seed: int = 0

    @field_validator("tuning", mode="before")
    @classmethod
    def _tuning(cls, value: Any) -> dict[str, Any]:
        return checked(value)

    @model_validator(mode="before")
    @classmethod
    def _one_of_two(cls, values: Any) -> Any:
        """What is given takes the place of the other one's default; both are too much."""
        if not isinstance(values, dict):
            return values
        if values.get("batch_size") is not None:
            if values.get("batch_tokens") is not None:
                raise ValueError(tr("batch_tokens and batch_size both say how large an update is; give one"))
            values = {**values, "batch_tokens": None}
        if values.get("max_steps") is not None:
            if values.get("num_train_epochs") is not None:
                raise ValueError(tr("num_train_epochs has no effect beside max_steps; give one, the other as null"))
            values = {**values, "num_train_epochs": None}
        return values

    @model_validator(mode="after")
    def _enough_said(self) -> Config:
        if self.batch_tokens is None and self.batch_size is None:
            raise ValueError(tr("an update has no size; give batch_tokens or batch_size"))
        if self.num_train_epochs is None and self.max_steps is None:
            raise ValueError(tr("the training has no length; give num_train_epochs or max_steps"))
        return self

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Config:
        """Held-out rows come from `validation`, or else from the tasks in `data`; problems from tasks alone."""
        held_out = self.held_out
        idle = [] if held_out else self._changed("validation_rows", "eval_steps")
        idle += [] if any(spec.task for spec in held_out) else self._changed("generate_rows")
        if idle:
            without = "{settings} has no effect: nothing is held out; name rows under validation, or leave it out"
            without_tasks = "{settings} has no effect: only tasks have problems to answer, and none is held out"
            raise ValueError(tr(without_tasks if held_out else without, settings=", ".join(idle)))
        if any(spec.weight != 1 for spec in self.validation):
            raise ValueError(tr("weight has no effect on what is held out"))
        if self.system is not None and not any(spec.task for spec in (*self.data, *held_out)):
            raise ValueError(tr("system has no effect: rows of a file have their own, and there are none of tasks"))
        return self

    @model_validator(mode="after")
    def _validations_that_are_read_are_made(self) -> Config:
        wrong = unseen_metric(self, self.validated, self.eval_steps)
        if wrong is not None:
            raise ValueError(wrong)
        return self

    @property
    def held_out(self) -> tuple[DataSpec, ...]:
        """What the validations look at: `validation`, or else the tasks in `data`."""
        return self.validation or tuple(spec for spec in self.data if spec.task is not None)

    @property
    def validated(self) -> list[str]:
        """The metrics that the validations measure."""
        of_rows = ["loss/validation"] if self.held_out and self.validation_rows else []
        of_tasks = any(spec.task for spec in self.held_out) and self.generate_rows
        return [*of_rows, *(["accuracy/validation"] if of_tasks else [])]

    def _changed(self, *names: str) -> list[str]:
        """Those that ask for something, and for something other than the default."""
        return [name for name in names if getattr(self, name) not in (0, type(self).model_fields[name].default)]
