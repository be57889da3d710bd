"""How much room the kept token files take: those used longest ago give way, never one that a process makes or reads.

Who reads a token file holds a shared lock on its folder (`tokens.TokenFile`), who makes or takes it the lock file
beside it (data/cache.py). One that is to be removed is first locked against both, and then renamed to what a killed
attempt leaves: should the removal be killed too, the next maker clears it away.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from thinkling.core.errors import ConfigError
from thinkling.core.files import sync_folder, writing
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.data.tokens import META

VARIABLE = "THINKLING_TOKENS_GIB"
MOST_GIB = 20.0
"""Tokens of about 15 GB of English text."""


def most_gib() -> float:
    """What all kept token files may take together: THINKLING_TOKENS_GIB, or 20.

    Raises:
        ConfigError: It is not a number, or below 0.
    """
    said = os.environ.get(VARIABLE, "")
    with contextlib.suppress(ValueError):
        most = float(said or MOST_GIB)
        if most >= 0 and not math.isnan(most):
            return most
    raise ConfigError(
        tr("{name} is a number of GiB, 0 or more, not '{value}'", name=VARIABLE, value=said),
        where=tr("the environment"),
        fix=tr("set it to a number such as 20, or unset it"),
    )


@dataclass(frozen=True)
class _Kept:
    folder: Path
    used: float
    """When it was taken last: seconds since 1970."""
    size: int
    """Bytes."""


def make_room(root: Path, progress: Progress) -> None:
    """Remove token files, those used longest ago first, until the others fit. Each is told.

    For the process that holds the lock of the whole folder: two at a time would remove too much.

    Args:
        root: Its folders are token files; the time of a folder is that of its last use.

    Raises:
        ConfigError: As `most_gib`.
        RunError: A token file cannot be removed.
    """
    kept = _kept(root)
    too_much = sum(one.size for one in kept) - most_gib() * 2**30
    for one in sorted(kept, key=lambda one: one.used):
        if too_much <= 0:
            return
        with _unused(one.folder) as is_free:
            if is_free:
                said = _farewell(one)
                _remove(one.folder)
                progress.note(said)
                too_much -= one.size


def _kept(root: Path) -> list[_Kept]:
    found = []
    for folder in root.iterdir():
        if folder.is_dir() and not folder.name.startswith("."):
            with contextlib.suppress(FileNotFoundError):  # its maker is just replacing a damaged one
                size = sum(file.stat().st_size for file in folder.iterdir())
                found.append(_Kept(folder, folder.stat().st_mtime, size))
    return found


@contextlib.contextmanager
def _unused(folder: Path) -> Iterator[bool]:
    """Hold a token file against makers and readers; False where there are some."""
    with contextlib.ExitStack() as stack:
        is_free = True
        for path, how in ((folder.with_name(f".{folder.name}.lock"), os.O_RDWR | os.O_CREAT), (folder, os.O_RDONLY)):
            try:
                descriptor = os.open(path, how)
                stack.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, FileNotFoundError):
                is_free = False
        yield is_free


def _remove(folder: Path) -> None:
    with writing(folder):
        leftover = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        os.rename(folder, leftover)
        sync_folder(folder.parent)
        shutil.rmtree(leftover)


def _farewell(one: _Kept) -> str:
    """What is removed, and why."""
    try:
        name = json.loads((one.folder / META).read_text(encoding="utf-8"))["made_from"]["path"]
    except (OSError, ValueError, KeyError, TypeError):  # damaged, which makes it no less removable
        name = one.folder.name
    text = (
        "the token file of {file} is removed to make room ({size} MiB, last used on {day}); {variable} allows {most} "
        "GiB in all"
    )
    day = time.strftime("%Y-%m-%d", time.localtime(one.used))
    return tr(text, file=name, size=f"{one.size / 2**20:,.0f}", day=day, variable=VARIABLE, most=f"{most_gib():g}")
