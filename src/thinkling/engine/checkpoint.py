"""Checkpoints: whole or absent, verified when read.

    checkpoints/step-N/model/               a Hugging Face folder: serve it, evaluate it, go on from it
    checkpoints/step-N/adapter/             in its place where an adapter was trained: see engine/adapter.py
    checkpoints/step-N/average/             an average of the weights on the way, where one is asked for: as model/
    checkpoints/step-N/optimizer/           master.safetensors, first.safetensors and second.safetensors: the fp32
                                            masters and moments of what is trained
    checkpoints/step-N/state.json           step, data cursor, what the run may continue under
    checkpoints/step-N/manifest.json        the digest of every file above

A checkpoint that does not match its manifest is passed over for the one before it, aloud.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from thinkling.core.errors import RunError
from thinkling.core.files import Attempt, clear_all_leftovers, damage, seal, writing
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run, read_json
from thinkling.engine.adapter import save_trained
from thinkling.engine.optimizer import MasterAdamW
from thinkling.model.decoder import Decoder
from thinkling.model.weights import save_hashed
from thinkling.tokenizer.tokenizer import Tokenizer

OPTIMIZER = "optimizer"
MASTERS = f"{OPTIMIZER}/master.safetensors"
STATE = "state.json"
WRITERS = 2
"""Threads that write the optimizer's files while this one writes the model."""


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint on disk."""

    step: int
    path: Path
    state: dict[str, Any]

    @property
    def model_dir(self) -> Path:
        return self.path / "model"

    def restore(self, optimizer: MasterAdamW) -> None:
        """Masters, moments and the model's weights as they were.

        Raises:
            RunError: It holds other weights than those that are trained.
        """
        kept = optimizer_state(self.path)
        trained = {name: tuple(tensor.shape) for name, tensor in optimizer.state().items()}
        if {name: tuple(tensor.shape) for name, tensor in kept.items()} != trained:
            raise RunError(
                tr("the checkpoint holds other weights than those that are trained"),
                where=str(self.path),
                fix=tr("bring back what it was made with, choose another folder with run_dir=PATH, or delete this one"),
            )
        optimizer.restore(kept, self.step)


def begin(
    run: Run,
    step: int,
    model: Decoder,
    tokenizer: Tokenizer,
    optimizer: MasterAdamW,
    state: dict[str, Any],
    *,
    keep: int,
    spare: Collection[int] = (),
    beside: Callable[[Path], None] = lambda _: None,
) -> Callable[[], None]:
    """Write all of checkpoints/step-N; what is returned waits for the disk, and then there is a checkpoint.

    Once this has returned, model and optimizer may change. The second part also drops all but the newest `keep`
    checkpoints and those of the steps in `spare`; it may run in another thread, and raises what this does.

    Args:
        beside: Writes what else belongs into the folder.

    Raises:
        RunError: No space is left; the older checkpoints are untouched.
    """
    attempt = Attempt(run.checkpoint_dir(step))
    with attempt.filling() as new:
        (new / OPTIMIZER).mkdir()
        with ThreadPoolExecutor(WRITERS) as pool:  # each file is the work of one core
            hashes = {
                f"{OPTIMIZER}/{kind}.safetensors": pool.submit(_save_kind, kind, optimizer.state(), new)
                for kind in ("master", "first", "second")
            }
            save_trained(model, tokenizer, new)
            beside(new)
            (new / STATE).write_text(json.dumps({"step": step, **state}, indent=2), encoding="utf-8")
        seal(new, {name: written.result() for name, written in hashes.items()})

    def finish() -> None:
        attempt.finish()
        # A later folder was passed over as damaged; it must not count as one of those kept.
        for s, old in [(s, p) for s, p in run.checkpoints() if s <= step][:-keep]:
            if s not in spare:
                with writing(old):
                    shutil.rmtree(old)

    return finish


def _save_kind(kind: str, state: Mapping[str, Tensor], checkpoint: Path) -> str:
    """Write one kind of the optimizer's tensors into its file; returns the file's digest."""
    named = {name: tensor for name, tensor in state.items() if name.startswith(f"{kind}/")}
    return save_hashed(named, checkpoint / OPTIMIZER / f"{kind}.safetensors")


def optimizer_state(checkpoint: Path) -> dict[str, Tensor]:
    """The optimizer's tensors by name: master/, first/ and second/ before that of the parameter."""
    files = sorted((checkpoint / OPTIMIZER).glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def newest(run: Run, progress: Progress, *, every: int = 1) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are named and passed over. None where there is none at all.

    For the process that holds the run: what a killed one left half written is removed.

    Args:
        every: Only those of a step that is a multiple of this.

    Raises:
        RunError: There are checkpoints, and every one is damaged.
    """
    clear_all_leftovers(run.checkpoints_dir)
    found = [(step, path) for step, path in run.checkpoints() if step % every == 0]
    for step, path in reversed(found):
        wrong = damage(path)
        if wrong is None:
            return Checkpoint(step, path, read_json(path / STATE))
        text = "checkpoint step-{step} is damaged ({wrong}); going back to the one before it"
        progress.note(tr(text, step=step, wrong=wrong))
    if found:
        raise RunError(
            tr("every checkpoint of this run is damaged"),
            where=str(run.checkpoints_dir),
            fix=tr("delete the folder to start the run again from the base model"),
        )
    return None


def machine_kind(model: Decoder) -> dict[str, Any]:
    """What a resumed run must share for the same bits."""
    return {
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "processor": torch.cuda.get_device_name(model.device)
        if model.device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
    }
