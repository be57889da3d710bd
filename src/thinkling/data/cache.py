"""Token files of data files: a large one is made once, and taken again while nothing that made it has changed.

A token file lies in THINKLING_HOME/tokens under a name that is a hash of the data file's bytes, the tokenizer's files
(its chat template is one of them), the settings, and the code that turns rows into tokens. It is there whole or not at
all, whoever was killed while making it, and of several processes that want it one makes it. It is compared with its
checksums whenever it is taken, and a damaged one is made again, aloud. All of them together take so much room and no
more (data/room.py). Little data is tokenised anew each time, for that is over before a cache would have been looked
into.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import thinkling
from thinkling.core.errors import DataError
from thinkling.core.files import clear_all_leftovers, make_folder, whole_folder, writing
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.data import tokens
from thinkling.data.prepare import TELL_EVERY_S, TooLong, write_rows
from thinkling.data.room import make_room, most_gib
from thinkling.data.rows import stream_conversations
from thinkling.data.tokens import TokenFile, temporary
from thinkling.model.pull import cache_root
from thinkling.tokenizer.tokenizer import Tokenizer

KEPT_FROM_BYTES = 1 << 20
"""Smaller files are tokenised in about a second, and no token file of theirs is kept."""
WORKERS_FROM_BYTES = 8 << 20
"""Smaller files are tokenised before processes to help would have started and paid for themselves."""
MANY_ROWS = 100_000
"""Fewer rows of a file, where so many alone are wanted, are tokenised sooner than a large file is hashed."""
MOST_WORKERS = 16
"""One process reads the file for all that tokenise; so many are more than it can keep busy."""
HASHED_AT_ONCE = 8 << 20
RULES = ("data/*.py", "formats/*.py", "tokenizer/*.py")
"""The code that decides what becomes of a row: another one makes another token file."""
LIBRARIES = ("tokenizers", "jinja2")
"""They cut texts into tokens and write chat templates: another version makes another token file."""


@dataclass(frozen=True)
class FileRows:
    """A data file, and how its rows are read."""

    path: Path
    format: str | None = None
    options: Mapping[str, Any] | None = None
    n: int | None = None
    """The first so many rows; None: all."""


def token_file(
    rows: FileRows,
    tokenizer: Tokenizer,
    *,
    cutoff_len: int,
    too_long: TooLong,
    workers: int | None,
    progress: Progress,
) -> TokenFile:
    """The token file of a data file: the one that is kept, or a new one, which is kept where the file is large.

    Args:
        workers: Processes that tokenise; None: one a core for files of 8 MiB and more, else none.

    Raises:
        DataError: The file cannot be read, or changes while it is.
        MachineError: A worker died.
        RunError: The token file cannot be written.
        ConfigError: THINKLING_TOKENS_GIB is no number.
    """
    fill = functools.partial(
        _fill, rows=rows, tokenizer=tokenizer, cutoff_len=cutoff_len, too_long=too_long, workers=workers,
        progress=progress, before=_stamp(rows.path),
    )  # fmt: skip
    if not _is_large(rows, KEPT_FROM_BYTES):
        return temporary(fill)
    most_gib()  # a mistake in it is told before the work and not after it
    folder = cache_root() / "tokens" / _name(rows, tokenizer, cutoff_len, too_long, progress)
    with _alone(folder, rows, progress):
        is_there = folder.exists()
        wrong = _fault(folder, progress) if is_there else None
        if wrong is not None:
            text = "the token file of {file} is made again, for it is damaged: {fault} ({folder})"
            progress.note(tr(text, file=rows.path, fault=wrong, folder=folder))
        if wrong is not None or not is_there:
            _make(folder, fill)
            size = sum(file.stat().st_size for file in folder.iterdir()) / 2**20
            text = "the tokens of {file} are kept for further runs: {size} MiB in {folder}"
            progress.note(tr(text, file=rows.path, size=f"{size:,.0f}", folder=folder))
        taken = TokenFile(folder)
        with writing(folder):
            os.utime(folder)  # when it was last used
    with _locked(folder.with_name(".lock")):
        make_room(folder.parent, progress)
    return taken


def _make(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a folder that takes its name when it is whole."""
    with contextlib.ExitStack() as stack:
        # What killed processes left, of other files too, for it can be large. Nobody begins meanwhile: a folder is its
        # maker's only once it is locked.
        with _locked(folder.with_name(".lock")):
            clear_all_leftovers(folder.parent)
            beside = stack.enter_context(whole_folder(folder))
        with writing(folder):
            fill(beside)


def _fill(
    folder: Path,
    *,
    rows: FileRows,
    tokenizer: Tokenizer,
    cutoff_len: int,
    too_long: TooLong,
    workers: int | None,
    progress: Progress,
    before: tuple[int, ...],
) -> None:
    """Write the token file; `before` is what the data file was like when its name was made up."""
    write_rows(
        folder,
        stream_conversations(rows.path, rows.format, rows.options, n=rows.n, progress=progress),
        tokenizer,
        cutoff_len=cutoff_len,
        too_long=too_long,
        workers=_default_workers(rows) if workers is None else workers,
        made_from={**asdict(rows), "path": str(rows.path), "cutoff_len": cutoff_len, "too_long": too_long},
    )
    if _stamp(rows.path) != before:
        raise DataError(
            tr("the file has changed while it was read"),
            where=str(rows.path),
            fix=tr("wait until it is written, and run the same command again"),
        )


def _stamp(path: Path) -> tuple[int, ...]:
    """What cannot stay the same when a file changes; empty where there is none: who reads it tells that better."""
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_large(rows: FileRows, from_bytes: int) -> bool:
    if rows.n is not None and rows.n < MANY_ROWS:
        return False
    return os.access(rows.path, os.R_OK) and rows.path.is_file() and rows.path.stat().st_size >= from_bytes


def _default_workers(rows: FileRows) -> int:
    if not _is_large(rows, WORKERS_FROM_BYTES):
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_WORKERS)


@contextlib.contextmanager
def _alone(folder: Path, rows: FileRows, progress: Progress) -> Iterator[None]:
    """One process at a time for each token file; the kernel takes the lock back from one that dies."""
    with writing(folder):
        make_folder(folder.parent)
    said = tr("waiting for another process, which makes the token file of {file}", file=rows.path)
    with _locked(folder.with_name(f".{folder.name}.lock"), lambda: progress.note(said)):
        yield


@contextlib.contextmanager
def _locked(path: Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a lock file for this process; `waits` is called before it waits for another one."""
    with writing(path):
        lock = open(path, "w", encoding="utf-8")  # noqa: SIM115  (closed below)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fault(folder: Path, progress: Progress) -> str | None:
    progress.start("checking", sum(file.stat().st_size for file in folder.iterdir()), "bytes")
    found = tokens.fault(folder)
    progress.finish()
    return found


def _name(rows: FileRows, tokenizer: Tokenizer, cutoff_len: int, too_long: str, progress: Progress) -> str:
    """The hash of all that decides what is in the token file."""
    own_format = Path(rows.format).expanduser() if rows.format and rows.format.endswith(".py") else None
    parts = {
        "version": tokens.VERSION,
        "file": _hash_of(rows.path, progress),
        "path": str(rows.path),  # the names of the rows begin with it
        "format": rows.format,
        "own format": _digest(own_format.read_bytes()) if own_format and own_format.is_file() else None,
        "options": rows.options,
        "n": rows.n,
        "tokenizer": {name: _digest(text) for name, text in sorted(tokenizer.files.items())},
        "cutoff_len": cutoff_len,
        "too_long": too_long,
        "rules": _rules(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    return _digest(json.dumps(parts, sort_keys=True, default=str).encode())[:32]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@functools.cache
def _rules() -> str:
    package = Path(thinkling.__file__).parent
    files = sorted(file for pattern in RULES for file in package.glob(pattern))
    return _digest("".join(f"{file.relative_to(package)} {_digest(file.read_bytes())}\n" for file in files).encode())


def _hash_of(path: Path, progress: Progress) -> str:
    """As `core.files.sha256_of`, telling how far it is: 50 GB take a minute."""
    digest, done, told = hashlib.sha256(), 0, time.monotonic()
    try:
        progress.start("hashing", path.stat().st_size, "bytes")
        with open(path, "rb") as file:
            while piece := file.read(HASHED_AT_ONCE):
                digest.update(piece)
                done += len(piece)
                if time.monotonic() - told >= TELL_EVERY_S:
                    told = time.monotonic()
                    progress.advance(done)
    except OSError as error:
        raise DataError(
            tr("the file cannot be read: {error}", error=error.strerror or error),
            where=str(path),
            fix=tr("check its rights and its disk"),
        ) from error
    progress.advance(done)
    progress.finish()
    return digest.hexdigest()
