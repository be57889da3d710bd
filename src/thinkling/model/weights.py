"""Named tensors on disk: safetensors, one file or shards with an index, as Hugging Face folders have them.

Tensors pass one at a time, so that a model is never in memory twice. Pickled weights are refused: opening one runs
code.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from thinkling.core.errors import ModelError
from thinkling.core.files import sha256_of, write_hashed
from thinkling.core.language import tr

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MAX_SHARD_BYTES = 4 * 2**30
"""Memory that saving needs beside the model, and a file size that every file system and mirror takes."""


def refuse_pickle(path: Path) -> NoReturn:
    """Say why a pickle is not opened, and what to do.

    Raises:
        ModelError: Always.
    """
    raise ModelError(
        f"{path.name} is a pickle, and opening one can run any code that is hidden in it",
        where=str(path),
        fix="use its safetensors files; where there are none, convert it in a sandbox with transformers",
    )


def weight_files(folder: Path) -> dict[str, Path]:
    """Tensor name to the file that holds it.

    Raises:
        ModelError: Only pickles, nothing at all, a damaged file or index, a shard that is missing.
    """
    # As in transformers: an index may be left over from before the model was saved anew as one file.
    if (folder / SINGLE).is_file():
        return {name: folder / SINGLE for name in _names(folder / SINGLE)}
    if (folder / INDEX).is_file():
        return _sharded(folder)
    for file in sorted(folder.iterdir()):
        if file.suffix in PICKLES:
            refuse_pickle(file)
    raise ModelError(
        "there are no weights here",
        where=str(folder / SINGLE),
        fix="name a folder with config.json and model.safetensors",
    )


def _sharded(folder: Path) -> dict[str, Path]:
    try:
        weight_map = dict(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"])
        places = {str(name): str(shard) for name, shard in weight_map.items()}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(folder / INDEX, error) from error
    for shard in sorted(set(places.values())):
        # The index is somebody else's file: a shard lies in this folder and nowhere else.
        if Path(shard).name != shard or Path(shard).suffix != ".safetensors":
            raise ModelError(
                f"the index names '{shard}', which is not a safetensors file of this folder",
                where=str(folder / INDEX),
                fix="fetch the model again",
            )
        if not (folder / shard).is_file():
            raise ModelError(f"the shard {shard} is missing", where=str(folder), fix="fetch the model again")
        held = _names(folder / shard)
        lost = [name for name, place in places.items() if place == shard and name not in held]
        if lost:
            raise ModelError(
                f"{shard} lacks {lost[0]}, which the index places there", where=str(folder), fix="fetch the model again"
            )
    return {name: folder / place for name, place in places.items()}


def _names(file: Path) -> set[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return set(opened.keys())
    except (SafetensorError, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> ModelError:
    return ModelError(f"{file.name} is damaged: {error}", where=str(file), fix="delete it and fetch the model again")


def weights_hash(folder: Path) -> str:
    """What tells the weights of one folder from those of another; empty where there are none."""
    hashes = [sha256_of(file) for file in sorted(folder.glob("*.safetensors"))]
    return hashes[0][:16] if len(hashes) == 1 else "+".join(h[:8] for h in hashes)


@contextlib.contextmanager
def open_adapter(file: Path) -> Iterator[Any]:
    """The safetensors file of an adapter for reading: safetensors' own handle.

    Raises:
        ModelError: It is damaged or absent; of a pickle in its place, that it is one.
    """
    pickle = next((file.with_suffix(end) for end in PICKLES if file.with_suffix(end).exists()), None)
    if pickle is not None and not file.exists():
        refuse_pickle(pickle)
    try:
        with safe_open(file, framework="pt") as opened:
            yield opened
    except (SafetensorError, OSError) as error:
        raise ModelError(
            tr("{name} is damaged: {error}", name=file.name, error=error),
            where=str(file),
            fix=tr("take the adapter from where it came from again"),
        ) from error


def read_weights(places: Mapping[str, Path]) -> Iterator[tuple[str, Tensor]]:
    """Each tensor with its name, file by file, mapped from disk: copy what you keep.

    Raises:
        ModelError: A damaged file.
    """
    for file in sorted(set(places.values())):
        try:
            with safe_open(file, framework="pt") as opened:
                for name in sorted(name for name, place in places.items() if place == file):
                    yield name, opened.get_tensor(name)
        except SafetensorError as error:
            raise _damaged(file, error) from error


def read_shapes(places: Mapping[str, Path]) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor; no weight is read."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in sorted(set(places.values())):
        with safe_open(file, framework="pt") as opened:
            shapes |= {
                name: tuple(opened.get_slice(name).get_shape()) for name, place in places.items() if place == file
            }
    return shapes


def write_weights(
    sizes: Mapping[str, int], tensor: Callable[[str], Tensor], folder: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Save tensors as one file, or as shards with an index where they are too many.

    Args:
        sizes: Bytes of each tensor as it will be saved, in the order of saving.
        tensor: Gives a tensor by its name when its turn has come; it must be contiguous.
        folder: Where; it exists.
        max_shard_bytes: No file is larger, unless one tensor is.
    """
    shards = _shards(sizes, max_shard_bytes)
    places: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        places |= dict.fromkeys(names, file)
        with torch.no_grad():
            save_tensors({name: tensor(name) for name in names}, folder / file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    """One safetensors file.

    Raises:
        OSError: The disk refuses, as for any other file; the library alone would wrap it in an error without a number.
    """
    try:
        save_file(dict(tensors), file, metadata={"format": "pt"})
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(file)) from error
    file.chmod(file.parent.stat().st_mode & 0o666)  # the library makes it private, whatever the folder is


def save_hashed(tensors: Mapping[str, Tensor], file: Path) -> str:
    """What `save_tensors` writes of fp32 tensors, byte for byte; returns the file's digest, taken on the way.

    Raises:
        OSError: The disk refuses.
    """
    names, place = sorted(tensors), 0
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name in names:
        tensor = tensors[name]
        assert tensor.dtype == torch.float32, (name, tensor.dtype)
        end = place + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [place, end]}
        place = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    head = memoryview(len(text).to_bytes(8, "little") + text)
    return write_hashed(file, itertools.chain([head], (_bytes_of(tensors[name]) for name in names)))


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().view(-1).numpy().data.cast("B")


def _shards(sizes: Mapping[str, int], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards
