"""Names to things in memory: the model of a stage, on the device and in the dtype that this machine computes in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from thinkling.core.device import compute_dtype, default_device, measure_peak
from thinkling.core.files import sha256_of
from thinkling.core.progress import Progress
from thinkling.engine.generate import Engine
from thinkling.model.decoder import Decoder
from thinkling.model.folder import load_folder
from thinkling.model.names import resolve
from thinkling.tokenizer.tokenizer import Tokenizer


def load_model(name: str, progress: Progress) -> tuple[Decoder, Tokenizer, dict[str, Any]]:
    """(model, tokenizer, identity); identity names the weights by hash, so that two results can be told apart."""
    folder = resolve(name, progress)
    device = default_device()
    model, tokenizer = load_folder(folder, dtype=compute_dtype(device.type))
    model.to(device)
    return model, tokenizer, identity_of(name, folder, model)


def load_engine(name: str, progress: Progress, *, slots: int) -> tuple[Engine, dict[str, Any]]:
    """An engine that generates with the named model."""
    model, tokenizer, identity = load_model(name, progress)
    peak = measure_peak(model.dtype, 0.3, model.device.type)
    return Engine(model.eval(), tokenizer, slots=slots, peak_flops=peak), identity


def identity_of(name: str, folder: Path, model: Decoder) -> dict[str, Any]:
    """What a result says about the model it belongs to."""
    hashes = [sha256_of(file) for file in sorted(folder.glob("*.safetensors"))]
    return {
        "name": name,
        "family": model.config.family,
        "parameters": model.config.n_parameters,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "threads": torch.get_num_threads(),
        "hash": hashes[0][:16] if len(hashes) == 1 else "+".join(h[:8] for h in hashes),
    }
