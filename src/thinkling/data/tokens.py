"""Token files: rows of weighted tokens in a folder that is written once, as a stream, and then mapped into memory.

    tokens.bin    uint32 a token, one row behind the other
    weights.bin   uint8 a token: which weight of the table in meta.json it has
    ends.bin      three uint64 a row, each counted from the beginning: tokens, learnt tokens, bytes of source names
    sources.bin   UTF-8: the name of each row, one behind the other
    meta.json     version, counts, the table of weights, and the account of what was lost
    manifest.json the digest of each of them (core/files.py)

All numbers are little-endian. Writing holds one chunk of rows, reading the rows that are asked for, so that 50 GB cost
no more memory than 50 MB. docs/data.md describes the format for its readers.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from thinkling.core.errors import DataError, RunError
from thinkling.core.files import MANIFEST, damage, digest_of, new_digest
from thinkling.core.language import tr

VERSION = 2
"""Of the format; files of another one are made anew."""
META = "meta.json"
COLUMNS = ("tokens.bin", "weights.bin", "ends.bin", "sources.bin")
TRAINED_ON = ("tokens.bin", "weights.bin", "ends.bin")
MOST_WEIGHTS = 256
RELEASE_BYTES = 64 << 20
"""Mapped pages are handed back when so much may be mapped: it would else be counted as memory of this process."""
TOUCHED_BYTES = 64 << 10
"""What one look into a mapped file maps at most around it (fault_around_bytes of Linux)."""


@dataclass(frozen=True)
class TokenRow:
    """One row to train on."""

    tokens: list[int]
    """(N,) ids; the last one is learnt."""
    weights: list[float]
    """(N,) how much the prediction of each counts."""
    source: str
    """The file and line, or task and item, it came from."""

    @property
    def n_supervised(self) -> int:
        """Tokens whose prediction counts; the first token of a row has no predictor."""
        return sum(weight != 0 for weight in self.weights[1:])


@dataclass(frozen=True)
class Chunk:
    """Some rows as columns: what a worker hands back and a writer takes."""

    tokens: NDArray[np.uint32]
    """(N,) of all rows, one behind the other."""
    weights: NDArray[np.float32]
    """(N,)"""
    lengths: NDArray[np.int64]
    """(R,) tokens of each row."""
    supervised: NDArray[np.int64]
    """(R,) learnt tokens of each row."""
    sources: tuple[str, ...]
    """(R,)"""

    @classmethod
    def of(cls, rows: Sequence[TokenRow]) -> Chunk:
        """Rows as columns."""
        return cls(
            np.array([token for row in rows for token in row.tokens], dtype=np.uint32),
            np.array([weight for row in rows for weight in row.weights], dtype=np.float32),
            np.array([len(row.tokens) for row in rows], dtype=np.int64),
            np.array([row.n_supervised for row in rows], dtype=np.int64),
            tuple(row.source for row in rows),
        )


class TokenWriter:
    """Writes a token file into a folder that exists, chunk by chunk. `close` writes meta.json and the manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = {name: open(folder / name, "wb") for name in COLUMNS}  # noqa: SIM115  (closed in __exit__)
        self._hashes = {name: new_digest() for name in COLUMNS}
        self._table: dict[float, int] = {}
        self._end = np.zeros(3, dtype=np.int64)
        self._rows = self._longest = 0

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()

    def add(self, chunk: Chunk) -> None:
        """Append rows.

        Raises:
            DataError: More than 256 different weights.
            OSError: The disk refuses.
        """
        if not len(chunk.lengths):
            return
        names = [source.encode() for source in chunk.sources]
        steps = np.stack([chunk.lengths, chunk.supervised, np.array([len(name) for name in names])], axis=1)  # (R, 3)
        ends = self._end + steps.cumsum(axis=0)
        self._end = ends[-1]
        self._rows += len(names)
        self._longest = max(self._longest, int(chunk.lengths.max()))
        self._write("tokens.bin", chunk.tokens.astype("<u4").tobytes())
        self._write("weights.bin", self._codes(chunk).tobytes())
        self._write("ends.bin", ends.astype("<u8").tobytes())
        self._write("sources.bin", b"".join(names))

    def _codes(self, chunk: Chunk) -> NDArray[np.uint8]:
        values, firsts, places = np.unique(chunk.weights, return_index=True, return_inverse=True)
        # In the order in which they come: the table must not depend on how the rows were cut into chunks.
        for value in values[np.argsort(firsts)]:
            self._table.setdefault(float(value), len(self._table))
        codes = [self._table[float(value)] for value in values]
        if len(self._table) > MOST_WEIGHTS:
            raise DataError(
                f"the rows have more than {MOST_WEIGHTS} different weights",
                where=chunk.sources[0],
                fix="round the weights of the messages, to hundredths for example",
            )
        found: NDArray[np.uint8] = np.array(codes, dtype=np.uint8)[places.reshape(-1)]
        return found

    def _write(self, name: str, content: bytes) -> None:
        self._files[name].write(content)
        self._hashes[name].update(content)

    def close(self, **facts: Any) -> None:
        """Make it whole; `facts` (the account, what the file was made from) go into meta.json."""
        for file in self._files.values():
            file.close()
        meta = {
            "version": VERSION,
            "rows": self._rows,
            "tokens": int(self._end[0]),
            "supervised_tokens": int(self._end[1]),
            "longest": self._longest,
            "weights": list(self._table),
            **facts,
        }
        text = json.dumps(meta, indent=2, ensure_ascii=False, default=str)
        (self.folder / META).write_text(text, encoding="utf-8")
        # In the form of core/files.py's manifest, without reading what has just been written once more.
        hashes = {name: digest.hexdigest() for name, digest in self._hashes.items()}
        hashes[META] = digest_of(self.folder / META)
        (self.folder / MANIFEST).write_text(json.dumps(hashes, indent=2), encoding="utf-8")


def fault(folder: Path) -> str | None:
    """What is wrong with a token file, in a few words, or None. Reads the whole of it: about a second a GB."""
    found = damage(folder)
    if found is not None:
        return found
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return f"{META} cannot be read: {error}"
    version = meta.get("version") if isinstance(meta, dict) else None
    return None if version == VERSION else f"it is of version {version}, and this program writes {VERSION}"


class TokenFile(Sequence[TokenRow]):
    """A token file to read: a sequence of its rows, and its columns for whoever wants many at once."""

    def __init__(self, folder: Path) -> None:
        """Map the files of a folder that a `TokenWriter` has closed, and hold it, so that nobody removes it."""
        descriptor = os.open(folder, os.O_RDONLY)
        weakref.finalize(self, os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        self.meta: dict[str, Any] = json.loads((folder / META).read_text(encoding="utf-8"))
        self._hashes: dict[str, str] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        self._maps: list[mmap.mmap] = []
        self._tokens = np.frombuffer(self._mapped(folder / "tokens.bin"), dtype="<u4")
        self._codes = np.frombuffer(self._mapped(folder / "weights.bin"), dtype=np.uint8)
        self._ends = np.frombuffer(self._mapped(folder / "ends.bin"), dtype="<u8").reshape(-1, 3)
        self._names = self._mapped(folder / "sources.bin")
        self._table = np.array(self.meta["weights"] or [0.0], dtype=np.float32)
        self._mapped_bytes = sum(map(len, self._maps))
        self._touched_bytes = 0

    def _mapped(self, path: Path) -> mmap.mmap | bytes:
        if not path.stat().st_size:  # nothing cannot be mapped
            return b""
        with open(path, "rb") as file:
            self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return self._maps[-1]

    @property
    def digest(self) -> str:
        """Names the very tokens and weights, whatever their rows are called: 64 hex digits."""
        parts = [self._hashes[name] for name in TRAINED_ON] + [repr(self.meta["weights"])]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    @property
    def n_tokens(self) -> int:
        return int(self.meta["tokens"])

    @property
    def n_supervised(self) -> int:
        return int(self.meta["supervised_tokens"])

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return int(self.meta["longest"])

    def __len__(self) -> int:
        return int(self.meta["rows"])

    @overload
    def __getitem__(self, place: int) -> TokenRow: ...
    @overload
    def __getitem__(self, place: slice) -> list[TokenRow]: ...
    def __getitem__(self, place: int | slice) -> TokenRow | list[TokenRow]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        tokens, weights, source = self.row(place % len(self))
        return TokenRow(tokens.tolist(), weights.tolist(), source)

    def __iter__(self) -> Iterator[TokenRow]:
        return (self[place] for place in range(len(self)))

    def row(self, place: int) -> tuple[NDArray[np.int64], NDArray[np.float32], str]:
        """(N,) tokens, (N,) weights and the name of one row, as copies of their own."""
        low, high = self._between(place, 0)
        first, last = self._between(place, 2)
        self._count(4 * TOUCHED_BYTES + 5 * (high - low))
        tokens = self._tokens[low:high].astype(np.int64)
        return tokens, self._table[self._codes[low:high]], bytes(self._names[first:last]).decode()

    def _between(self, place: int, column: int) -> tuple[int, int]:
        return int(self._ends[place - 1, column]) if place else 0, int(self._ends[place, column])

    def lengths(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """(R,) places to (R,) tokens of each row."""
        return self._steps(places, 0)

    def supervised(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """(R,) places to (R,) learnt tokens of each row."""
        return self._steps(places, 1)

    def _steps(self, places: NDArray[np.int64], column: int) -> NDArray[np.int64]:
        before = np.where(places > 0, self._ends[places - 1, column], 0)
        steps: NDArray[np.int64] = (self._ends[places, column] - before).astype(np.int64)
        self._count(TOUCHED_BYTES * len(places))  # rows that are asked for in a random order lie far apart
        return steps

    def _count(self, n_bytes: int) -> None:
        self._touched_bytes += n_bytes
        if self._touched_bytes >= RELEASE_BYTES and self._mapped_bytes >= RELEASE_BYTES:
            self.release()

    def release(self) -> None:
        """Hand the mapped pages back to the system; they stay in its cache while it has room, and come unasked."""
        self._touched_bytes = 0
        for mapped in self._maps:
            if hasattr(mmap, "MADV_DONTNEED"):
                mapped.madvise(mmap.MADV_DONTNEED)


def temporary(fill: Callable[[Path], None]) -> TokenFile:
    """A token file that need not outlive this process: its folder is removed once it is mapped.

    Args:
        fill: Writes a whole token file into the folder it is given.

    Raises:
        RunError: There is no room for it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="thinkling-tokens-") as name:
            fill(Path(name))
            return TokenFile(Path(name))
    except OSError as error:
        raise RunError(
            tr("there is no room for the tokens of these rows: {error}", error=error.strerror or error),
            where=tr("the folder for temporary files, {folder}", folder=tempfile.tempdir or "TMPDIR"),
            fix=tr("free some space there, or name another folder in the variable TMPDIR"),
        ) from error


def stored(rows: Iterable[TokenRow]) -> TokenFile:
    """A temporary token file of these rows."""

    def fill(folder: Path) -> None:
        with TokenWriter(folder) as writer:
            writer.add(Chunk.of(list(rows)))
            writer.close()

    return temporary(fill)
