"""Adapters on disk: what a method trained, beside the name of the base model it belongs to.

    adapter_model.safetensors   the trained tensors
    adapter_config.json         for PEFT, where PEFT knows the method: its keys are then in PEFT's form, fp32
    tuning.json                 method, settings, and the base model by name and hash
    config.json, tokenizer…     of the base model, so that the folder can be named wherever a model can

PEFT writes `base_model.model.` before each name; where it does not know the method, the names are our own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from thinkling.core import shelf
from thinkling.core.errors import ModelError
from thinkling.core.files import whole_folder
from thinkling.core.language import tr
from thinkling.engine.tuning import SHELF, checked, config_of, is_adapter, method_of, tune
from thinkling.model.decoder import Decoder
from thinkling.model.folder import config_json, save_folder
from thinkling.model.names import ADAPTER_WEIGHTS, PEFT_CONFIG
from thinkling.model.weights import save_tensors
from thinkling.tokenizer.tokenizer import Tokenizer

RECORD = "tuning.json"
PREFIX = "base_model.model."


def save_trained(model: Decoder, tokenizer: Tokenizer, checkpoint: Path) -> None:
    """Write what was trained into a checkpoint: adapter/ of an adapter, else the whole model/.

    Raises:
        RunError: No space is left.
    """
    if is_adapter(model):
        save_adapter(model, tokenizer, checkpoint / "adapter")
    else:
        save_folder(model, tokenizer, checkpoint / "model")


def save_adapter(model: Decoder, tokenizer: Tokenizer, folder: Path) -> None:
    """Write an adapter folder, whole or not at all.

    Raises:
        RunError: No space is left.
    """
    tuned = model.tuned
    assert tuned is not None
    entry = shelf.entry(SHELF, tuned.method)
    settings = {"method": tuned.method, **tuned.settings}
    peft = entry.peft_config(config_of(settings), model)
    kept = trained_tensors(model)
    if hasattr(entry, "for_inference"):
        plain, made = entry.for_inference(model, config_of(settings))
        settings |= plain.model_dump(mode="json")
        kept = {name: tensor.detach().cpu().contiguous() for name, tensor in made.items()}
    tensors = {stored_name(name, peft is not None): tensor for name, tensor in kept.items()}
    record = {**settings, "base": dict(tuned.base)}
    with whole_folder(Path(folder)) as new:
        save_tensors(tensors, new / ADAPTER_WEIGHTS)
        (new / RECORD).write_text(_json(record), encoding="utf-8")
        (new / "config.json").write_text(config_json(model, tokenizer), encoding="utf-8")
        tokenizer.save(new)
        if peft is not None:
            named = {"base_model_name_or_path": tuned.base.get("folder"), "task_type": "CAUSAL_LM", **peft}
            (new / PEFT_CONFIG).write_text(_json(named), encoding="utf-8")


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def trained_tensors(model: Decoder) -> dict[str, Tensor]:
    """Name to tensor of all that is trained, on the CPU and contiguous."""
    return {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}


def stored_name(name: str, is_peft: bool) -> str:
    """A parameter's name in adapter_model.safetensors.

    PEFT's form ends in `.weight`, but for the vectors of DoRA and IA3; virtual tokens belong to no module.
    """
    if not is_peft:
        return name
    if name.startswith("virtual."):
        return name.removeprefix("virtual.")
    return PREFIX + name + ("" if name.endswith((".weight", "lora_magnitude_vector", "ia3_l")) else ".weight")


def read_record(folder: Path) -> dict[str, Any]:
    """tuning.json: method and settings, checked, and `base`.

    Raises:
        ModelError: Absent or damaged.
        ConfigError: A method or setting that is not known here.
    """
    file = folder / RECORD
    try:
        record = dict(json.loads(file.read_text(encoding="utf-8")))
        base = dict(record.pop("base"))
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(
            tr("this adapter does not say what it is: {error}", error=error),
            where=str(file),
            fix=tr("name a folder that a training here wrote; adapters of other programs open with peft"),
        ) from error
    return {**checked(record), "base": base}


@torch.no_grad()
def load_adapter(model: Decoder, folder: Path) -> None:
    """Apply the adapter in `folder` to the plain model that it belongs to, in place.

    Raises:
        ModelError: It is damaged, or made of other tensors than its settings promise.
    """
    record = read_record(folder)
    base = record.pop("base")
    tune(model, record, base)
    is_peft = method_of(record).peft_config(config_of(record), model) is not None
    wanted = {stored_name(n, is_peft): p for n, p in model.named_parameters() if p.requires_grad}
    found = _read(folder / ADAPTER_WEIGHTS)
    faults = [tr("it lacks {name}", name=name) for name in wanted if name not in found]
    faults += [
        tr("it holds {name}, which its settings do not promise", name=name) for name in found if name not in wanted
    ]
    faults += [
        tr("{name} has the shape {shape} instead of {wanted}", name=n, shape=tuple(t.shape), wanted=tuple(p.shape))
        for n, t in found.items()
        if (p := wanted.get(n)) is not None and p.shape != t.shape
    ]
    if faults:
        raise ModelError(
            tr("this adapter is of another model or damaged: {fault}", fault=faults[0]),
            where=str(folder / ADAPTER_WEIGHTS),
            fix=tr("take the adapter from its run folder again"),
        )
    for name, parameter in wanted.items():
        parameter.copy_(found[name])


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
    except (SafetensorError, OSError) as error:
        raise ModelError(
            tr("{name} is damaged: {error}", name=file.name, error=error),
            where=str(file),
            fix=tr("take the adapter from its run folder again"),
        ) from error
