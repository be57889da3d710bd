"""Averages of the weights on the way, of the fp32 masters: often better than the last weights, and never trained with.

`ema` follows every update and costs one more fp32 copy. `last` is the mean of the last k checkpoints, read from their
files when the run ends: no memory, and a pure function of what is on disk. Either is a folder `average/` in the
checkpoint, of the kind of the `model/` or `adapter/` beside it. Of LoRA it is the mean of each factor, which is not the
mean of their products.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from thinkling.core.config import Config
from thinkling.core.errors import RunError
from thinkling.core.files import damage
from thinkling.core.language import tr
from thinkling.engine.adapter import save_adapter
from thinkling.engine.checkpoint import MASTERS
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.tuning import is_adapter
from thinkling.model.decoder import Decoder
from thinkling.model.folder import save_folder
from thinkling.model.weights import save_tensors
from thinkling.tokenizer.tokenizer import Tokenizer

FOLDER = "average"
STATE = "average.safetensors"
"""The fp32 sums of `ema`, for going on."""


class AveragingConfig(Config):
    """Averages of the weights."""

    average: Literal["ema", "last"] | None = None
    """ema: exponential, over updates. last: plain, over the last checkpoints of save_steps. It is RUN/average."""
    average_decay: float = Field(0.999, gt=0, lt=1)
    """ema: how much of the average stays at each update, once there were many."""
    average_last: int = Field(5, ge=2)
    """last: over so many checkpoints, all of which are kept."""

    @model_validator(mode="after")
    def _average_settings_have_an_effect(self) -> AveragingConfig:
        needs = {"average_decay": "ema", "average_last": "last"}
        fields = AveragingConfig.model_fields
        for name, kind in needs.items():
            if getattr(self, name) != fields[name].default and self.average != kind:
                raise ValueError(tr("{settings} has no effect without average: {kind}", settings=name, kind=kind))
        return self


class MovingAverage:
    """The exponential moving average of an optimizer's masters (Polyak & Juditsky 1992's idea, decaying).

    Of update t (from 1) the decay is min(decay, (1 + t) / (10 + t)), or the weights before training would fill the
    average of a short run.
    """

    def __init__(self, optimizer: MasterAdamW, decay: float) -> None:
        self.decay = decay
        self.names = optimizer.names
        self.values = [master.detach().clone() for master in optimizer.masters]

    @torch.no_grad()
    def update(self, optimizer: MasterAdamW, updates: int) -> None:
        """Take in the masters after update number `updates`."""
        weight = 1 - min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self.values, [master.detach() for master in optimizer.masters], weight)

    def save(self, folder: Path) -> None:
        """The sums, exactly."""
        save_tensors(dict(zip(self.names, self.values, strict=True)), folder / STATE)

    def restore(self, folder: Path) -> None:
        """As `save` left them.

        Raises:
            RunError: The checkpoint has none.
        """
        if not (folder / STATE).is_file():
            raise RunError(
                tr("the checkpoint holds no average of the weights"),
                where=str(folder),
                fix=tr("choose another run folder, or delete this one"),
            )
        held = load_file(folder / STATE)
        for name, value in zip(self.names, self.values, strict=True):
            value.copy_(held[name])


def members(steps_on_disk: Sequence[int], step: int, *, save_steps: int, last: int) -> list[int]:
    """The checkpoints whose mean is taken at the end, `step`: it and the newest of save_steps' before it.

    Those that an interruption or a best validation left between are none of them, or a run that was stopped would end
    with another average.
    """
    regular = [s for s in steps_on_disk if s < step and save_steps and s % save_steps == 0]
    return [*regular[-(last - 1) :], step]


def mean_of_files(folders: Sequence[Path], optimizer: MasterAdamW) -> list[Tensor]:
    """The mean of the optimizer's masters and of those in earlier checkpoints, tensor by tensor.

    Raises:
        RunError: One of them is damaged.
    """
    for folder in folders:
        wrong = damage(folder, MASTERS)
        if wrong is not None:
            raise RunError(
                tr("an average needs {name}, which is damaged: {wrong}", name=folder.name, wrong=wrong),
                where=str(folder),
                fix=tr("delete this checkpoint and all newer ones; the same command makes them again"),
            )
    sums = [master.detach().clone() for master in optimizer.masters]
    for folder in folders:
        with safe_open(folder / MASTERS, framework="pt") as file:
            for name, total in zip(optimizer.names, sums, strict=True):
                total.add_(file.get_tensor(f"master/{name}").to(total.device))
    torch._foreach_div_(sums, float(len(folders) + 1))
    return sums


def save_average(
    model: Decoder, tokenizer: Tokenizer, optimizer: MasterAdamW, values: Sequence[Tensor], folder: Path
) -> None:
    """Write a model or adapter folder with the trained parameters set to `values`, and leave the model as it was."""
    write = save_adapter if is_adapter(model) else save_folder
    with _weights(optimizer, values):
        write(model, tokenizer, folder / FOLDER)


@contextlib.contextmanager
def _weights(optimizer: MasterAdamW, values: Sequence[Tensor]) -> Iterator[None]:
    """Within, the model has these weights; after it, the rounded copies of the masters, as always."""
    with torch.no_grad():
        torch._foreach_copy_(optimizer.params, list(values))
        try:
            yield
        finally:
            torch._foreach_copy_(optimizer.params, optimizer.masters)
