"""A Hugging Face folder to a model and its tokenizer, and back.

The decoder is first made without memory, then each tensor takes its place as it is read, so that loading never holds
a model twice. Every tensor has to have a place and every place a tensor: a name left over is an error, never a
warning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from thinkling.core.errors import ModelError
from thinkling.core.files import whole_folder
from thinkling.model.config import ModelConfig, from_hugging_face, to_hugging_face
from thinkling.model.decoder import Decoder
from thinkling.model.weights import (
    MAX_SHARD_BYTES,
    read_shapes,
    read_weights,
    refuse_pickle,
    weight_files,
    write_weights,
)
from thinkling.tokenizer.tokenizer import Tokenizer

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
COMPUTED = ".rotary_emb.inv_freq"
"""Old Llama folders carry this table, which follows from the config."""


def load_folder(path: Path, *, dtype: torch.dtype | None = None) -> tuple[Decoder, Tokenizer]:
    """The model and tokenizer of a folder, on the CPU.

    Args:
        path: A folder with config.json, safetensors (one or sharded) and tokenizer.json.
        dtype: Of the weights in memory; None leaves them as they are stored.

    Raises:
        ModelError: A file is missing or damaged, the family is unknown, the weights are pickles, or the tensors are not
            those that the config promises.
    """
    path = Path(path)
    config = read_config(path)
    return load_model(path, config, dtype=dtype), Tokenizer.load(path)


def read_config(folder: Path) -> ModelConfig:
    """The sizes of the model in a folder; no weight is read.

    Raises:
        ModelError: No config.json, a damaged one, or a model that is not carried out here.
    """
    if folder.is_file():
        refuse_pickle(folder)
    file = folder / "config.json"
    try:
        values = dict(json.loads(file.read_text(encoding="utf-8")))
    except OSError as error:
        raise ModelError(
            "there is no config.json", where=str(folder), fix="name a Hugging Face model folder"
        ) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ModelError(f"config.json is damaged: {error}", where=str(file), fix="fetch the model again") from error
    return from_hugging_face(values, str(file))


def load_model(folder: Path, config: ModelConfig, *, dtype: torch.dtype | None = None) -> Decoder:
    """The decoder of a folder without its tokenizer.

    Raises:
        ModelError: As `load_folder`.
    """
    places = {name: file for name, file in weight_files(folder).items() if not name.endswith(COMPUTED)}
    check_tensors(read_shapes(places), config, str(folder))
    tensors = {}
    for name, tensor in read_weights(places):
        if not tensor.is_floating_point():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise ModelError(
                f"{name} is made of {kind}: quantised weights are not carried out here",
                where=str(places[name]),
                fix="use the model's folder of 16 or 32 bit floats, or a GGUF file",
            )
        tensors[name] = tensor.to(dtype or tensor.dtype, copy=True)
    _check_tied(tensors, config, folder)
    model = _empty(config, str(folder))
    model.load_state_dict(tensors, strict=False, assign=True)
    if config.tied_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model


def _empty(config: ModelConfig, where: str) -> Decoder:
    """A decoder whose parameters have shapes and no memory."""
    try:
        with torch.device("meta"):
            return Decoder(config)
    except (RuntimeError, TypeError, OverflowError) as error:  # a tensor of more elements than can be counted
        raise ModelError(f"no model has these sizes: {error}", where=where, fix="fetch the model again") from error


def check_tensors(shapes: Mapping[str, tuple[int, ...]], config: ModelConfig, where: str) -> None:
    """Compare the tensors at hand with those that a config promises.

    Raises:
        ModelError: One is missing, one is too many, or one has another shape.
    """
    if config.n_layers > len(shapes):  # said before that many layers are made
        raise ModelError(
            f"there are {config.n_layers} layers promised and {len(shapes)} tensors",
            where=where,
            fix="fetch the model again",
        )
    empty = _empty(config, where)
    wanted = {name: tuple(parameter.shape) for name, parameter in empty.named_parameters()}  # tied ones once
    allowed = wanted | ({HEAD: wanted[EMBEDDING]} if config.tied_embeddings else {})
    faults = [f"the weights lack {name}" for name in wanted if name not in shapes]
    faults += [f"the weights hold {name}, which config.json does not promise" for name in shapes if name not in allowed]
    faults += [
        f"{name} has the shape {shape}, and config.json promises {allowed[name]}"
        for name, shape in shapes.items()
        if shape != allowed.get(name, shape)
    ]
    if faults:
        more = f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else ""
        fix = "config and weights are of different models, or one of them is damaged: fetch both again"
        raise ModelError(faults[0] + more, where=where, fix=fix)


def _check_tied(tensors: dict[str, Tensor], config: ModelConfig, folder: Path) -> None:
    """A folder may write tied weights twice; two different ones would make one of them silently vanish."""
    if not config.tied_embeddings or HEAD not in tensors:
        return
    if not torch.equal(tensors.pop(HEAD), tensors[EMBEDDING]):
        raise ModelError(
            "config.json says that embedding and head are one tensor, and the weights hold two different ones",
            where=str(folder),
            fix='set "tie_word_embeddings": false in config.json if that is what was trained',
        )


def save_folder(model: Decoder, tokenizer: Tokenizer, path: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> None:
    """Write a folder that transformers loads, whole or not at all; an older one of the name is replaced.

    Args:
        model: Saved in the dtype it has.
        tokenizer: Its files are written as they were read.
        path: The folder.
        max_shard_bytes: Larger models are cut into files of this size.

    Raises:
        RunError: No space is left.
    """
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    sizes = {name: parameter.numel() * parameter.element_size() for name, parameter in parameters.items()}
    with whole_folder(Path(path)) as new:
        (new / "config.json").write_text(config_json(model, tokenizer), encoding="utf-8")
        tokenizer.save(new)
        write_weights(sizes, lambda name: parameters[name].cpu().contiguous(), new, max_shard_bytes=max_shard_bytes)


def config_json(model: Decoder, tokenizer: Tokenizer) -> str:
    """The text of a model folder's config.json."""
    ids = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    dtype = str(model.dtype).removeprefix("torch.")
    return json.dumps({**to_hugging_face(model.config), "dtype": dtype, **ids}, indent=2) + "\n"
