"""Adapters on disk: what a method trained, beside the name of the base model it belongs to.

    adapter_model.safetensors   the trained tensors
    adapter_config.json         for PEFT, where PEFT knows the method: its keys are then in PEFT's form, fp32
    tuning.json                 method, settings, and the base model by name and hash
    config.json, tokenizer…     of the base model, so that the folder can be named wherever a model can

PEFT writes `base_model.model.` before each name; where it does not know the method, the names are our own.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from thinkling.core import shelf
from thinkling.core.errors import ConfigError, ModelError
from thinkling.core.files import whole_folder
from thinkling.core.language import tr
from thinkling.engine.tuning import SHELF, checked, config_of, is_adapter, method_of, tune
from thinkling.model.decoder import Decoder
from thinkling.model.folder import config_json, save_folder
from thinkling.model.names import ADAPTER_WEIGHTS, PEFT_CONFIG, RECORD
from thinkling.model.weights import open_adapter, save_tensors
from thinkling.tokenizer.tokenizer import Tokenizer

PREFIX = "base_model.model."
FLOATS = ("F64", "F32", "F16", "BF16")
TRUST = "THINKLING_TRUST"
"""Variable that names programs of one's own which an adapter may be made by, parted as PATH is."""


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
    """tuning.json: method and settings, checked, and `base` with at least its name and hash. Somebody else may have
    written it, so that no program is run that it names.

    Raises:
        ModelError: Absent, damaged, or of a method or setting that is not carried out here.
    """
    file = folder / RECORD
    try:
        record = dict(json.loads(file.read_text(encoding="utf-8")))
        base = dict(record.pop("base"))
        base |= {"name": str(base["name"]), "hash": str(base["hash"])}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError(
            tr("this adapter does not say what it is: {error}", error=error),
            where=str(file),
            fix=tr("name a folder that a training here or peft wrote"),
        ) from error
    _refuse_strange_program(str(record.get("method")), file)
    with _told_of(folder):
        settings = checked(record)
    if not method_of(settings).IS_ADAPTER:
        raise ModelError(
            tr(
                "this adapter cannot be carried out: {what}",
                what=tr("{method} is no adapter", method=settings["method"]),
            ),
            where=str(file),
            fix=tr("take the adapter from its run folder again, or one that was made for this model"),
        )
    return {**settings, "base": base}


def _refuse_strange_program(method: str, file: Path) -> None:
    """A method may be a file of one's own, and an adapter from elsewhere may name any file."""
    trusted = [Path(name).expanduser().resolve() for name in os.environ.get(TRUST, "").split(os.pathsep) if name]
    if not shelf.runs_nothing_new(SHELF, method) and Path(method).expanduser().resolve() not in trusted:
        raise ModelError(
            tr("this adapter wants the program {path} to be run", path=method),
            where=str(file),
            fix=tr("read that program, and if you trust it, set {name}={path}", name=TRUST, path=method),
        )


@contextlib.contextmanager
def _told_of(folder: Path) -> Iterator[None]:
    """A wrong setting in here is told as a fault of the adapter: there is no recipe to mend."""
    try:
        yield
    except ConfigError as error:
        raise ModelError(
            tr("this adapter cannot be carried out: {what}", what=error.what),
            where=f"{folder / RECORD}, {error.where}",
            fix=tr("take the adapter from its run folder again, or one that was made for this model"),
        ) from error


@torch.no_grad()
def load_adapter(model: Decoder, folder: Path) -> None:
    """Apply the adapter in `folder` to the plain model that it belongs to, in place.

    Raises:
        ModelError: It is damaged, or made of other tensors than its settings promise.
    """
    record = read_record(folder)
    base = record.pop("base")
    is_peft = method_of(record).peft_config(config_of(record), model) is not None
    with torch.device("meta"):  # so that settings beyond measure cost nothing before they are compared
        sample = Decoder(model.config)
    with _told_of(folder):
        tune(sample, record, base)
    file = folder / ADAPTER_WEIGHTS
    _refuse_other_tensors(_wanted(sample, is_peft), file)
    tune(model, record, base)
    wanted = _wanted(model, is_peft)
    with open_adapter(file) as opened:
        for name, parameter in wanted.items():
            tensor = opened.get_tensor(name)
            _refuse_broken(name, tensor, file)
            parameter.copy_(tensor)


def _wanted(model: Decoder, is_peft: bool) -> dict[str, Parameter]:
    """What the file of a tuned model has to hold."""
    return {stored_name(n, is_peft): p for n, p in model.named_parameters() if p.requires_grad}


def _refuse_other_tensors(wanted: Mapping[str, Tensor], file: Path) -> None:
    """Compare names, shapes and kinds of numbers; no tensor is read."""
    with open_adapter(file) as opened:
        slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - it is no mapping
        found = {name: (tuple(one.get_shape()), one.get_dtype()) for name, one in slices.items()}
    faults = [tr("it lacks {name}", name=name) for name in wanted if name not in found]
    faults += [
        tr("it holds {name}, which its settings do not promise", name=name) for name in found if name not in wanted
    ]
    faults += [
        tr("{name} has the shape {shape} instead of {wanted}", name=n, shape=shape, wanted=tuple(wanted[n].shape))
        for n, (shape, _) in found.items()
        if n in wanted and shape != tuple(wanted[n].shape)
    ]
    faults += [
        tr("{name} is made of {kind}", name=n, kind=kind) for n, (_, kind) in found.items() if kind not in FLOATS
    ]
    if faults:
        raise ModelError(
            tr("this adapter is of another model or damaged: {fault}", fault=faults[0]),
            where=str(file),
            fix=tr("take the adapter from its run folder again"),
        )


def _refuse_broken(name: str, tensor: Tensor, file: Path) -> None:
    if not bool(torch.isfinite(tensor).all()):
        raise ModelError(
            tr("{name} holds a weight that is not a number", name=name),
            where=str(file),
            fix=tr("take the adapter from its run folder again"),
        )
