"""Memory that runs out within a step: nothing has been updated, so the step is done again in smaller parts.

A step's gradient is the sum over its micro-batches (law 1), so that halving them leaves it the same up to the order of
the additions. The smaller size stays for the rest of the run and travels in the checkpoint.
"""

from __future__ import annotations

import gc

import torch

from thinkling.core.device import return_freed_memory
from thinkling.core.errors import MachineError
from thinkling.core.language import tr
from thinkling.data.batch import Batch

SAID = ("can't allocate memory", "not enough memory", "out of memory")
"""How torch's allocators word it where they raise a plain RuntimeError, as the one for CPUs does."""


def is_shortage(error: BaseException) -> bool:
    """Whether this is memory that ran out, as Python, torch on a GPU or torch on a CPU says it."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in SAID)


def smaller(batch: Batch, micro_batch_tokens: int) -> int | None:
    """The size, halved until it parts the batch further; None where every row (or group) stands alone already."""
    parts, size = len(batch.split(micro_batch_tokens)), micro_batch_tokens
    while size > 1:
        size //= 2
        if len(batch.split(size)) > parts:
            return size
    return None


def give_back(device: torch.device) -> None:
    """What the failed attempt held, to the system: call it after the error has been let go."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        return_freed_memory()


def exhausted(batch: Batch, step: int, error: BaseException) -> MachineError:
    """No smaller part is left."""
    facts = {"step": step, "tokens": max(batch.lengths), "said": str(error).splitlines()[0] if str(error) else ""}
    return MachineError(
        tr("memory ran out in step {step} with one row at a time, of up to {tokens} tokens: {said}", **facts),
        where=tr("rows {rows}", rows=", ".join(batch.sources)),
        fix=tr(
            "lower cutoff_len or head_chunk, close other programs, or take a smaller model; the last checkpoint is kept"
        ),
    )


def during_update(step: int) -> MachineError:
    """In the middle of an update: a part of the weights may have moved."""
    return MachineError(
        tr("memory ran out while the weights of step {step} were updated", step=step),
        where="engine/optimizer.py",
        fix=tr("close other programs or take a smaller model; the same command goes on from the last checkpoint"),
    )


def during_validation(step: int) -> MachineError:
    """In a look at held-out problems: its parts are not made smaller."""
    return MachineError(
        tr("memory ran out in the validation after step {step}", step=step),
        where="validation_rows, generate_rows",
        fix=tr("lower micro_batch_tokens, generate_rows or max_new_tokens, or close other programs; no step is lost"),
    )
