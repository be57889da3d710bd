"""Files that appear whole or not at all: write beside, fsync, rename. A kill or a full disk leaves the last state.

What a disk may do to them later is told by a manifest: `seal` writes it, `damage` compares.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from thinkling.core.errors import RunError

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
ATTEMPT = re.compile(r"\.([^/]+)\.\d+\.(?:partial|replaced)")
"""The name of what is being written, in the path of an attempt that will be gone when the error is read."""
MANIFEST = "manifest.json"
BLOCK_BYTES = 2**26
"""What `write_hashed` writes at once."""
ELSEWHERE = "choose another place: run_dir=PATH for a run, the variable THINKLING_HOME for models"


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Whatever the disk refuses inside the block is told as what the user can mend.

    Raises:
        RunError: No space is left, no permission, a read-only disk, a file where a folder is wanted, a broken disk.
    """
    try:
        yield
    except OSError as error:
        raise _no_space(path) if error.errno in NO_SPACE else _refused(path, error) from error


def _no_space(path: Path) -> RunError:
    free = shutil.disk_usage(next(p for p in [path, *path.parents] if p.exists())).free
    return RunError(
        f"there is no space left to write {path.name} ({free / 2**20:.0f} MiB free)",
        where=ATTEMPT.sub(r"\1", str(path)),
        fix=f"free some space, or {ELSEWHERE}; what was saved before is untouched",
    )


def _refused(path: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {path.name}: {error.strerror or error}", where=str(path), fix=ELSEWHERE)


def sync_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_file(file: Path) -> None:
    """Make what was written to `file` survive a power cut."""
    with open(file, "rb") as handle:
        os.fsync(handle.fileno())


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they survive a power cut: each stands in a synced folder.

    Without it a checkpoint that was saved with every care could vanish with the folder of the run.
    """
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file or leave the old one.

    Raises:
        RunError: As `writing`.
    """
    data = content.encode() if isinstance(content, str) else content
    with writing(path):
        make_folder(path.parent)
        clear_leftovers(path)
        beside = _beside(path)
        try:
            with open(beside, "wb") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, path)
            sync_folder(path.parent)
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def clear_leftovers(path: Path) -> None:
    """Remove what killed processes left of their attempts to write `path`.

    Whoever writes holds a lock on its attempt, which the kernel takes back when the process dies. A kill between the
    two renames of `whole_folder` leaves the old folder under another name: it gets its own again.
    """
    for left in _leftovers(path, "replaced"):
        if path.exists():
            shutil.rmtree(left)
        else:
            os.rename(left, path)
    for left in _leftovers(path, "partial"):
        with contextlib.suppress(FileNotFoundError), _locked(left) as mine:
            if mine and left.is_dir():
                shutil.rmtree(left)
            elif mine:
                left.unlink()


def _leftovers(path: Path, kind: str) -> list[Path]:
    # The pattern of "model" finds attempts at "model.old" too, which are not its own.
    found = path.parent.glob(f".{glob.escape(path.name)}.*.{kind}")
    return [left for left in found if (name := ATTEMPT.fullmatch(left.name)) and name[1] == path.name]


def clear_all_leftovers(folder: Path) -> None:
    """`clear_leftovers` of everything in `folder`, also of what nobody will write again.

    Raises:
        RunError: As `writing`.
    """
    with writing(folder):
        for name in {found[1] for entry in folder.glob(".*") if (found := ATTEMPT.fullmatch(entry.name))}:
            clear_leftovers(folder / name)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a file or folder for this process; False where another one holds it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write_json(path: Path, value: Any) -> None:
    """`value` as indented JSON, whole or not at all."""
    write_atomically(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


class Attempt:
    """A folder that is filled beside `path`, and takes the name `path` once all of it is on the disk.

    The two can be far apart: what was written is the kernel's already, and `finish` waits for the disk, in another
    thread where the caller has better things to do. Until then it is held for this process.

    Raises:
        RunError: As `writing`, also of `filling` and `finish`. Nothing of the new folder stays then.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, _beside(path)
        with writing(path):
            make_folder(path.parent)
            clear_leftovers(path)
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            self._lock = os.open(self.folder, os.O_RDONLY)
        _try_lock(self._lock)

    @contextlib.contextmanager
    def filling(self) -> Iterator[Path]:
        """The folder to write to; it goes where the block fails."""
        try:
            yield self.folder
        except BaseException as error:
            self._drop()
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                raise _no_space(self.path) from error
            raise

    def finish(self) -> None:
        """Wait until the disk has it all, and give it its name."""
        with self.filling(), writing(self.path):
            _sync_files(self.folder)
            _take_name(self.folder, self.path)
        os.close(self._lock)

    def _drop(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._lock)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside `path`; it takes the name `path` only when the block ends well.

    Raises:
        RunError: As `writing`; inside the block, where no space is left. Nothing of the new folder stays.
    """
    attempt = Attempt(path)
    with attempt.filling() as folder:
        yield folder
    attempt.finish()


def _sync_files(folder: Path) -> None:
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        sync_file(file)
    for inner in [folder, *(p for p in folder.rglob("*") if p.is_dir())]:
        sync_folder(inner)


def _take_name(beside: Path, path: Path) -> None:
    """Rename a folder; one that has the name already gives way and is removed."""
    if path.exists():
        replaced = path.with_name(f".{path.name}.{os.getpid()}.replaced")
        os.rename(path, replaced)
        try:
            os.rename(beside, path)
        except OSError:
            os.rename(replaced, path)
            raise
        shutil.rmtree(replaced)
    else:
        os.rename(beside, path)
    sync_folder(path.parent)


def sha256_of(path: Path) -> str:
    """Hex digest of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def new_digest() -> xxhash.xxh3_128:
    """What makes the digests of manifests: XXH3 with 128 bits.

    It finds what a disk or a copy does to a file at the speed of the memory. SHA-256 takes a second a gigabyte and,
    beside a manifest that anybody can rewrite, protects no more.
    """
    return xxhash.xxh3_128()


def digest_of(path: Path) -> str:
    """Hex digest of a file for its manifest, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, new_digest).hexdigest()


def write_hashed(file: Path, pieces: Iterable[memoryview]) -> str:
    """Write `pieces` one after the other into a new file; returns its digest, as `digest_of`.

    While one thread writes a block this one hashes it from memory: nothing is read back. The disk has it when it is
    synced. An error of the disk is raised here.
    """
    digest = new_digest()
    with open(file, "wb") as handle, ThreadPoolExecutor(1) as pool:
        for block in _blocks(pieces):
            written = pool.submit(_write, handle, block)
            for piece in block:
                digest.update(piece)
            written.result()
    return digest.hexdigest()


def _write(handle: BinaryIO, block: list[memoryview]) -> None:
    handle.writelines(block)
    handle.flush()


def _blocks(pieces: Iterable[memoryview]) -> Iterator[list[memoryview]]:
    """Pieces together that have at least BLOCK_BYTES, the last ones as they come."""
    block: list[memoryview] = []
    for piece in pieces:
        block.append(piece)
        if sum(held.nbytes for held in block) >= BLOCK_BYTES:
            yield block
            block = []
    if block:
        yield block


def seal(folder: Path, known: Mapping[str, str] | None = None) -> None:
    """Write the manifest of a folder: the digest of every file in it.

    Args:
        known: Digests of files that were taken while these were written, by path in the folder; the others are read.
    """
    (folder / MANIFEST).write_text(json.dumps(_hashes(folder, known=known), indent=2), encoding="utf-8")


def damage(folder: Path, within: str = "") -> str | None:
    """What is wrong with a sealed folder, in a few words, or None.

    Args:
        folder: It was sealed when it was written.
        within: Only files whose path in the folder begins so are read, such as "model/". 1 GiB takes 0.15 s out of the
            kernel's cache.
    """
    try:
        promised = dict(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))
        wanted = {name: digest for name, digest in promised.items() if name.startswith(within)}
        found = _hashes(folder, within)
    except (OSError, ValueError, TypeError) as error:
        return f"{MANIFEST} or a file that it names cannot be read: {error}"
    if not wanted:
        return f"{MANIFEST} promises no file {within}".rstrip()
    for name, digest in wanted.items():
        if name not in found:
            return f"{name} is missing"
        if found[name] != digest:
            return f"{name} is not what was written"
    return None


def _hashes(folder: Path, within: str = "", *, known: Mapping[str, str] | None = None) -> dict[str, str]:
    files = {str(file.relative_to(folder)): file for file in sorted(folder.rglob("*")) if file.is_file()}
    names = [name for name in files if name != MANIFEST and name.startswith(within)]
    told = known or {}
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda name: told.get(name) or digest_of(files[name]), names)
        return dict(zip(names, found, strict=True))
