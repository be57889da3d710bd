"""Files appear whole or not at all, whatever happens while they are written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from thinkling.core import files
from thinkling.core.errors import RunError
from thinkling.core.files import sha256_of, whole_folder, write_atomically, write_json


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


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path):
    content = os.urandom(3_000_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
