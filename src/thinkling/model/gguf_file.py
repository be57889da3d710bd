"""The head of a GGUF file: its facts and where its tensors lie.

The `gguf` library reads the same, through one numpy view for each of 100,000 strings, which takes 3 s of the 8 that a
model may take to be ready; this takes 0.1 s, and checks every length against the file before it believes it. The
library stays the oracle of this reader (tests) and does the arithmetic of the number formats.
"""

from __future__ import annotations

import functools
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from thinkling.core.errors import ModelError

SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
"""GGUF value type to its struct format."""
STRING = 8
ARRAY = 9
VERSIONS = (2, 3)
MAX_DIMENSIONS = 4
CHUNK_ROWS = 4096
"""Rows turned into numbers at a time: the embedding of a large vocabulary would else need three copies at once."""


@functools.cache
def is_readable(kind: GGMLQuantizationType) -> bool:
    """Whether the library turns this number format into float32; some of those it knows by name it does not."""
    try:
        dequantize(np.zeros((1, GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except (KeyError, NotImplementedError):
        return False
    return True


@dataclass(frozen=True)
class TensorPlace:
    """One tensor, still packed."""

    name: str
    shape: tuple[int, ...]
    """As torch has it: rows first."""
    kind: GGMLQuantizationType
    offset: int
    """Bytes from the start of the file."""
    n_bytes: int


class GgufFile:
    """The metadata and tensors of one file. `metadata` maps a key to a number, text or list."""

    def __init__(self, path: Path) -> None:
        """Read the head.

        Raises:
            ModelError: Not a GGUF file, cut short, damaged, or of an unknown version or number format.
        """
        self.path = path
        with open(path, "rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(
                    "this is not a GGUF file", where=str(path), fix="name a file that ends in .gguf, or a model folder"
                )
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._at = 4
        try:
            self.metadata: Mapping[str, Any] = self._read_metadata()
            self.tensors: Mapping[str, TensorPlace] = self._read_places()
        except (struct.error, ValueError) as error:
            raise self._damaged(str(error)) from error

    def rows(self, place: TensorPlace) -> Iterator[npt.NDArray[np.float32]]:
        """Float32 arrays of at most `CHUNK_ROWS` rows each, one after another: the whole tensor in order."""
        width = place.shape[-1]
        n_rows = int(np.prod(place.shape[:-1], dtype=np.int64))
        packed = np.frombuffer(self._map, np.uint8, place.n_bytes, place.offset).reshape(n_rows, -1)
        for low in range(0, n_rows, CHUNK_ROWS):
            # As one long row: the library would else go through 16 rows at a time.
            numbers = dequantize(packed[low : low + CHUNK_ROWS].reshape(1, -1), place.kind).reshape(-1, width)
            # Float32 comes out as a read-only view of the file, which torch warns about.
            yield numbers if numbers.flags.writeable else numbers.copy()

    def _read_metadata(self) -> dict[str, Any]:
        version = self._scalar("<I")
        if version not in VERSIONS:
            raise ModelError(
                f"GGUF version {version} is not known here", where=str(self.path), fix=f"known: {VERSIONS}"
            )
        self._n_tensors = self._count(32)
        n_keys = self._count(12)
        facts: dict[str, Any] = {}
        for _ in range(n_keys):
            key = self._text()
            if key in facts:
                raise ValueError(f"it says {key} twice")
            facts[key] = self._value(self._scalar("<I"))
        return facts

    def _read_places(self) -> dict[str, TensorPlace]:
        heads = [self._tensor_head() for _ in range(self._n_tensors)]
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            raise ValueError(f"the alignment is {alignment}")
        data = -(-self._at // alignment) * alignment
        places = {head[0]: self._place(data, *head) for head in heads}
        if len(places) != len(heads):
            raise ValueError("two of its tensors have one name")
        if sum(place.n_bytes for place in places.values()) > len(self._map):  # a small file would fill the disk
            raise ValueError("its tensors lie upon each other")
        return places

    def _tensor_head(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._text()
        n_dimensions = self._scalar("<I")
        if not 1 <= n_dimensions <= MAX_DIMENSIONS:
            raise ValueError(f"the tensor {name} has {n_dimensions} dimensions")
        shape = tuple(reversed([self._scalar("<Q") for _ in range(n_dimensions)]))
        return name, shape, self._scalar("<I"), self._scalar("<Q")

    def _place(self, data: int, name: str, shape: tuple[int, ...], kind_number: int, offset: int) -> TensorPlace:
        kind = GGMLQuantizationType(kind_number)
        if not is_readable(kind):
            raise ValueError(f"the tensor {name} is of the number format {kind.name}, which is not read here")
        block, block_bytes = GGML_QUANT_SIZES[kind]
        size = 1
        for length in shape:
            size *= length
        if size == 0 or shape[-1] % block:
            raise ValueError(f"the tensor {name} of shape {shape} is no {kind.name}")
        place = TensorPlace(name, shape, kind, data + offset, size // block * block_bytes)
        if place.offset + place.n_bytes > len(self._map):
            raise ValueError(f"it ends before its tensor {name}")
        return place

    def _value(self, kind: int) -> Any:
        if kind in SCALARS:
            return self._scalar(SCALARS[kind])
        if kind == STRING:
            return self._text()
        if kind == ARRAY:
            return self._array()
        raise ValueError(f"it has a value of the unknown type {kind}")

    def _array(self) -> list[Any]:
        kind = self._scalar("<I")
        if kind == STRING:
            return [self._text() for _ in range(self._count(8))]
        if kind not in SCALARS:
            raise ValueError(f"it has a list of the unknown type {kind}")
        form = SCALARS[kind]
        length = self._count(struct.calcsize(form))
        values = struct.unpack_from(f"<{length}{form[1]}", self._map, self._at)
        self._at += struct.calcsize(form) * length
        return list(values)

    def _scalar(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self._map, self._at)
        self._at += struct.calcsize(form)
        return value

    def _count(self, least_bytes: int) -> int:
        """A number of things of at least so many bytes, which must fit in what is left of the file."""
        count = int(self._scalar("<Q"))
        if count * least_bytes > len(self._map) - self._at:
            raise ValueError(f"it promises {count} entries and ends before them")
        return count

    def _text(self) -> str:
        length = self._count(1)
        text = self._map[self._at : self._at + length].decode("utf-8")
        self._at += length
        return text

    def _damaged(self, what: str) -> ModelError:
        return ModelError(
            f"{self.path.name} is damaged: {what}", where=str(self.path), fix="delete it and fetch the model again"
        )
