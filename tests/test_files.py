"""Files appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from thinkling.core import files
from thinkling.core.errors import RunError
from thinkling.core.files import (
    MANIFEST,
    Attempt,
    clear_all_leftovers,
    clear_leftovers,
    damage,
    digest_of,
    seal,
    sha256_of,
    whole_folder,
    write_atomically,
    write_hashed,
    write_json,
)


def _full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def _left_behind(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_written_file_holds_what_was_written_and_nothing_lies_beside_it(tmp_path: Path):
    write_atomically(tmp_path / "new" / "a.txt", "中文")
    assert (tmp_path / "new" / "a.txt").read_text(encoding="utf-8") == "中文"
    assert _left_behind(tmp_path / "new") == ["a.txt"]


def test_json_is_read_back_as_it_was(tmp_path: Path):
    value = {"名": [1, 2.5, None, True]}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str):
    file = tmp_path / "a.txt"
    write_atomically(file, "old")
    monkeypatch.setattr(files.os, call, _full_disk)
    with pytest.raises(RunError, match="no space left to write") as caught:
        write_atomically(file, "new")
    assert file.read_text() == "old"
    assert _left_behind(tmp_path) == ["a.txt"]
    assert "run_dir" in caught.value.fix


def test_other_faults_of_the_disk_are_not_called_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(files.os, "fsync", broken)
    with pytest.raises(RunError, match=r"cannot write a\.txt: Input/output error"):
        write_atomically(tmp_path / "a.txt", "new")
    assert _left_behind(tmp_path) == []


def test_a_folder_takes_its_name_only_when_it_is_whole(tmp_path: Path):
    with whole_folder(tmp_path / "model") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "weights").write_bytes(b"1")
        assert not (tmp_path / "model").exists()
    assert (tmp_path / "model" / "sub" / "weights").read_bytes() == b"1"
    assert _left_behind(tmp_path) == ["model"]


def _write_and_give_up(path: Path, fault: BaseException) -> None:
    with whole_folder(path) as folder:
        (folder / "weights").write_bytes(b"new")
        raise fault


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), ValueError("a bug")])
def test_a_folder_that_is_given_up_leaves_the_old_one(tmp_path: Path, fault: BaseException):
    with whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_bytes(b"old")
    with pytest.raises(type(fault)):
        _write_and_give_up(tmp_path / "model", fault)
    assert (tmp_path / "model" / "weights").read_bytes() == b"old"
    assert _left_behind(tmp_path) == ["model"]


def test_a_new_folder_replaces_the_whole_old_one(tmp_path: Path):
    for name in ("old", "new"):
        with whole_folder(tmp_path / "model") as folder:
            (folder / name).touch()
    assert _left_behind(tmp_path / "model") == ["new"]
    assert _left_behind(tmp_path) == ["model"]


def test_a_full_disk_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_bytes(b"old")
    monkeypatch.setattr(files.os, "fsync", _full_disk)
    with pytest.raises(RunError, match="no space"), whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_bytes(b"new")
    assert (tmp_path / "model" / "weights").read_bytes() == b"old"
    assert _left_behind(tmp_path) == ["model"]


def test_a_folder_that_is_finished_later_is_held_meanwhile_and_has_no_name(tmp_path: Path):
    attempt = Attempt(tmp_path / "model")
    with attempt.filling() as folder:
        (folder / "weights").write_bytes(b"new")
    clear_all_leftovers(tmp_path)  # what nobody holds would be gone
    assert (folder / "weights").exists()
    assert not (tmp_path / "model").exists()
    attempt.finish()
    assert (tmp_path / "model" / "weights").read_bytes() == b"new"
    assert _left_behind(tmp_path) == ["model"]


def test_a_disk_that_refuses_a_folder_later_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with whole_folder(tmp_path / "model") as folder:
        (folder / "weights").write_bytes(b"old")
    attempt = Attempt(tmp_path / "model")
    with attempt.filling() as folder:
        (folder / "weights").write_bytes(b"new")
    monkeypatch.setattr(files.os, "fsync", _full_disk)
    with pytest.raises(RunError, match="no space"):
        attempt.finish()
    assert (tmp_path / "model" / "weights").read_bytes() == b"old"
    assert _left_behind(tmp_path) == ["model"]


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path):
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("sizes", [[], [0], [5], [7, 8, 9], [3, 0, 40, 1, 1, 1, 12]])
def test_what_is_hashed_while_it_is_written_is_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sizes: list[int]
):
    monkeypatch.setattr(files, "BLOCK_BYTES", 10)  # several blocks
    pieces = [os.urandom(size) for size in sizes]
    digest = write_hashed(tmp_path / "a", map(memoryview, pieces))
    assert (tmp_path / "a").read_bytes() == b"".join(pieces)
    assert digest == digest_of(tmp_path / "a")


def test_a_disk_that_refuses_another_thread_is_told_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(files, "_write", _full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_hashed(tmp_path / "a", [memoryview(b"1")])


# what survives a power cut --------------------------------------------------------------------------------------------


@pytest.fixture
def order(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the disk is told, in order: ("sync" or "rename", the name as it was then)."""
    told: list[tuple[str, str]] = []
    sync, replace, rename = os.fsync, os.replace, os.rename

    def fsync(descriptor: int) -> None:
        told.append(("sync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def renaming(really: Callable[[Path, Path], None]) -> Callable[[Path, Path], None]:
        return lambda old, new: (told.append(("rename", Path(old).name)), really(old, new))[1]

    monkeypatch.setattr(files.os, "fsync", fsync)
    monkeypatch.setattr(files.os, "replace", renaming(replace))
    monkeypatch.setattr(files.os, "rename", renaming(rename))
    return told


linux = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="which file is synced is read from /proc")


@linux
def test_a_file_is_synced_before_it_takes_its_name_and_its_folder_after(tmp_path: Path, order: list[tuple[str, str]]):
    write_atomically(tmp_path / "a.txt", "new")
    attempt = f".a.txt.{os.getpid()}.partial"
    assert order == [("sync", attempt), ("rename", attempt), ("sync", tmp_path.name)]


@linux
def test_a_folder_is_synced_with_all_in_it_before_it_takes_its_name_and_the_one_around_it_after(
    tmp_path: Path, order: list[tuple[str, str]]
):
    with whole_folder(tmp_path / "model") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "weights").write_bytes(b"1")
    attempt = f".model.{os.getpid()}.partial"
    assert sorted(order[:-2]) == [("sync", attempt), ("sync", "sub"), ("sync", "weights")]
    assert order[-2:] == [("rename", attempt), ("sync", tmp_path.name)]


# what killed processes left -------------------------------------------------------------------------------------------


def test_leftovers_of_what_nobody_writes_again_are_cleared_away_too(tmp_path: Path):
    (tmp_path / "step-2").mkdir()
    (tmp_path / ".step-3.99.partial").mkdir()
    (tmp_path / ".step-3.99.partial" / "weights").touch()
    (tmp_path / ".step-4.99.replaced").mkdir()
    (tmp_path / ".hidden").touch()
    clear_all_leftovers(tmp_path)
    assert _left_behind(tmp_path) == [".hidden", "step-2", "step-4"]
    clear_all_leftovers(tmp_path / "nothing there")


def test_leftovers_of_another_name_that_begins_the_same_are_left_alone(tmp_path: Path):
    (tmp_path / ".model.old.99.replaced").mkdir()
    (tmp_path / ".model.old.99.partial").mkdir()
    clear_leftovers(tmp_path / "model")
    assert _left_behind(tmp_path) == [".model.old.99.partial", ".model.old.99.replaced"]


# manifests ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"weights")
    (tmp_path / "state.json").write_text("{}")
    seal(tmp_path)
    return tmp_path


def test_a_sealed_folder_is_whole_until_a_file_is_lost_or_changed(sealed: Path):
    assert damage(sealed) is None
    (sealed / "model" / "weights").write_bytes(b"Weights")
    assert damage(sealed) == "model/weights is not what was written"
    (sealed / "model" / "weights").unlink()
    assert damage(sealed) == "model/weights is missing"


def test_hashes_that_are_known_are_not_taken_again_and_the_rest_is(sealed: Path):
    seal(sealed, {"state.json": "as told"})
    assert damage(sealed, "model/") is None
    assert damage(sealed) == "state.json is not what was written"


def test_only_the_part_that_is_asked_for_is_read(sealed: Path):
    (sealed / "state.json").unlink()
    assert damage(sealed, "model/") is None
    assert damage(sealed, "optimizer") == "manifest.json promises no file optimizer"


@pytest.mark.parametrize("text", [None, "", "{", "5", "null", "[1]", "{}"])
def test_a_folder_without_a_manifest_that_promises_something_is_damaged(sealed: Path, text: str | None):
    (sealed / MANIFEST).unlink()
    if text is not None:
        (sealed / MANIFEST).write_text(text)
    assert "manifest.json" in str(damage(sealed))


def test_a_file_that_the_disk_does_not_give_is_damage(sealed: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(path: Path) -> str:
        raise OSError(errno.EIO, "Input/output error", str(path))

    monkeypatch.setattr(files, "digest_of", broken)
    assert "Input/output error" in str(damage(sealed))
