"""Files that appear whole or not at all: write beside, fsync, rename. A full disk or a kill leaves the last good state."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from thinkling.core.errors import RunError


def _no_space(path: Path, error: OSError) -> RunError:
    free = shutil.disk_usage(next(p for p in [path, *path.parents] if p.exists())).free
    return RunError(
        f"there is no space left to write {path.name} ({free / 2**20:.0f} MiB free)",
        where=str(path),
        fix="free some space, or put the run elsewhere with run_dir=PATH; what was saved before is untouched",
    )


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file or leave the old one.

    Raises:
        RunError: No space is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    data = content.encode() if isinstance(content, str) else content
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)
    except OSError as error:
        beside.unlink(missing_ok=True)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(path, error) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, whole or not at all."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside `path`; it takes the name `path` only when the block ends well.

    Raises:
        RunError: No space is left; nothing of the new folder stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        for file in sorted(p for p in beside.rglob("*") if p.is_file()):
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        if path.exists():
            replaced = path.with_name(f".{path.name}.{os.getpid()}.replaced")
            os.rename(path, replaced)
            os.rename(beside, path)
            shutil.rmtree(replaced)
        else:
            os.rename(beside, path)
        sync_folder(path.parent)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _no_space(path, error) from error
        raise


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
