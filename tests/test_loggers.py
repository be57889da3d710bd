"""Loggers repeat metrics.jsonl to other programs. Whatever happens to one, the run goes on and says so once."""

from __future__ import annotations

import inspect
import struct
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinkling.core.config import resolve
from thinkling.core.errors import ConfigError
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.core.shelf import entry, names
from thinkling.engine.reporting import Reports
from thinkling.engine.settings import TrainerConfig
from thinkling.loggers import tensorboard


@pytest.fixture
def run(tmp_path: Path):
    run = Run.start(tmp_path / "run", {"learning_rate": 1e-4})
    yield run
    run.close()


def report(run: Run, wanted: tuple[str, ...], steps: range = range(1, 4)) -> Silent:
    progress = Silent()
    reports = Reports(wanted, run, progress)
    for step in steps:
        reports.log(step, {"loss/train": 1 / step})
    reports.close()
    return progress


# TensorBoard ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (b"", 0)],  # RFC 3720, B.4
)
def test_the_checksum_is_that_of_the_rfc(data: bytes, checksum: int):
    assert tensorboard.crc32c(data) == checksum


def records(content: bytes) -> list[bytes]:
    found = []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        found.append(content[12 : 12 + length])
        assert content[: 16 + length] == tensorboard.record(found[-1])
        content = content[16 + length :]
    return found


def fields(message: bytes) -> list[tuple[int, object]]:
    """Field number and value of a message of protocol buffers: a plain reader of its own."""
    found: list[tuple[int, object]] = []
    place = 0

    def varint() -> int:
        nonlocal place
        number = shift = 0
        while True:
            byte = message[place]
            number, shift, place = number | (byte & 0x7F) << shift, shift + 7, place + 1
            if byte < 0x80:
                return number

    while place < len(message):
        key = varint()
        kind, size = key & 7, {1: 8, 5: 4}.get(key & 7)
        if kind == 0:
            found.append((key >> 3, varint()))
            continue
        size = varint() if size is None else size
        raw = message[place : place + size]
        place += size
        number = struct.unpack("<d" if kind == 1 else "<f", raw)[0] if kind != 2 else raw
        found.append((key >> 3, number))
    return found


@given(
    st.floats(0, 2e9),
    st.integers(0, 2**62),
    st.dictionaries(st.text(max_size=200), st.floats(width=32, allow_nan=False), max_size=4),
)
def test_an_event_is_read_back_as_it_was(wall_time: float, step: int, metrics: dict[str, float]):
    found = dict(fields(tensorboard.event(wall_time, step, tensorboard.summary(metrics))))
    assert (found[1], found[2]) == (wall_time, step)
    values = [dict(fields(value)) for _, value in fields(found[5])]
    assert {value[1].decode(): value[2] for value in values} == metrics


def test_a_number_too_large_for_24_bits_is_infinite_and_not_an_error():
    values = [dict(fields(v)) for _, v in fields(dict(fields(tensorboard.summary({"a": 1e300, "b": -1e300})))[5])]
    assert [value[2] for value in values] == [float("inf"), float("-inf")]


def test_each_session_writes_a_file_that_says_from_which_step_it_holds(run: Run):
    report(run, ("tensorboard",), range(1, 6))
    report(run, ("tensorboard",), range(3, 7))
    files = sorted(run.logger_dir("tensorboard").iterdir())
    assert len(files) == 2
    version, session, first, *_ = [dict(fields(r)) for r in records(files[1].read_bytes())]
    assert version[3] == b"brain.Event:2"
    assert (session[2], dict(fields(session[7]))) == (3, {1: 1})
    assert first[2] == 3


def test_tensorboards_own_reader_sees_every_step_once_after_a_resume(run: Run):
    pytest.importorskip("tensorboard.backend", reason="tensorboard is not installed: its own reader is not tried")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report(run, ("tensorboard",), range(1, 6))
    report(run, ("tensorboard",), range(3, 7))  # it was killed at 5, and its checkpoint was of step 2
    reader = EventAccumulator(str(run.logger_dir("tensorboard"))).Reload()
    scalars = reader.Scalars("loss/train")
    assert [point.step for point in scalars] == [1, 2, 3, 4, 5, 6]
    assert [point.value for point in scalars] == pytest.approx([1 / step for step in range(1, 7)])


# the others -----------------------------------------------------------------------------------------------------------


class Elsewhere(ModuleType):
    """Stands in for a package: remembers what it was told."""

    Error = RuntimeError

    def __init__(self, name: str, fails_at: int | None = None) -> None:
        super().__init__(name)
        self.__spec__ = SimpleNamespace(name=name)
        self.told: list[object] = []
        self.fails_at = fails_at

    def init(self, **settings: object) -> Elsewhere:
        self.told.append(settings)
        return self

    def log(self, metrics: dict[str, float], step: int) -> None:
        if step == self.fails_at:
            raise RuntimeError("the network is gone\nand much more about it")
        self.told.append((step, metrics))

    def finish(self) -> None:
        self.told.append("finished")


OTHERS = ("swanlab", "trackio", "wandb")


@pytest.mark.parametrize("name", OTHERS)
def test_one_that_is_installed_gets_every_line(run: Run, monkeypatch: pytest.MonkeyPatch, name: str):
    there = Elsewhere(name)
    monkeypatch.setitem(sys.modules, name, there)
    assert report(run, (name,)).notes == []
    assert there.told[1:] == [(s, {"loss/train": 1 / s}) for s in (1, 2, 3)] + ["finished"]
    assert there.told[0]["config"] == {"learning_rate": 1e-4}


@pytest.mark.parametrize("name", OTHERS)
def test_one_that_is_not_installed_is_named_once_and_the_rest_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setitem(sys.modules, name, None)
    notes = report(run, (name, "tensorboard")).notes
    assert notes == [f"{name} is not installed, so no curves go there (pip install {name}); metrics.jsonl has them all"]
    assert list(run.logger_dir("tensorboard").iterdir())


def test_one_that_fails_on_the_way_is_named_once_and_asked_no_more(run: Run, monkeypatch: pytest.MonkeyPatch):
    there = Elsewhere("wandb", fails_at=2)
    monkeypatch.setitem(sys.modules, "wandb", there)
    assert report(run, ("wandb",)).notes == [
        "wandb failed and gets no more curves (the network is gone); metrics.jsonl has them all"
    ]
    assert [told[0] for told in there.told[1:]] == [1]


@pytest.mark.parametrize("fault", [TypeError("Descriptors cannot be created directly"), SystemExit("log in first")])
def test_one_that_breaks_or_leaves_when_it_is_imported_ends_no_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException
):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "wandb.py").write_text(f"raise {fault!r}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    assert report(run, ("wandb",)).notes == [
        f"wandb failed and gets no more curves ({fault}); metrics.jsonl has them all"
    ]


def test_a_file_of_ones_own_that_is_not_there_is_refused_before_the_first_step(run: Run):
    with pytest.raises(ConfigError, match=r"there is no file nowhere\.py"):
        Reports(("nowhere.py",), run, Silent())


def test_when_a_run_goes_back_each_is_started_again_but_those_that_failed(run: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "wandb", Elsewhere("wandb", fails_at=2))
    progress = Silent()
    reports = Reports(("tensorboard", "wandb"), run, progress)
    for step in (1, 2, 3):
        reports.log(step, {"loss/train": 1.0})
    reports.begin_again()
    reports.log(2, {"loss/train": 1.0})
    reports.close()
    files = sorted(run.logger_dir("tensorboard").iterdir())
    session = dict(fields(records(files[1].read_bytes())[1]))
    assert (len(files), session[2]) == (2, 2)
    assert len(progress.notes) == 1


def test_a_folder_that_cannot_be_written_costs_the_curves_there_and_nothing_else(run: Run):
    (run.path / "logs").write_text("a file where a folder is wanted")
    assert "tensorboard failed" in report(run, ("tensorboard",)).notes[0]


def test_the_same_run_has_the_same_identity_when_it_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch):
    there = Elsewhere("wandb")
    monkeypatch.setitem(sys.modules, "wandb", there)
    report(run, ("wandb",))
    run.close()
    again = Run.start(run.path, {"learning_rate": 1e-4})
    report(again, ("wandb",))
    again.close()
    started = [told for told in there.told if isinstance(told, dict)]
    assert len(started) == 2
    assert started[0]["id"] == started[1]["id"]


def test_a_logger_of_ones_own_is_a_file(run: Run, tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "def faults():\n    return ()\n\n"
        "class Mine:\n"
        "    def __init__(self, folder):\n        folder.mkdir(parents=True)\n        self.file = folder / 'steps'\n"
        "    def log(self, step, metrics):\n"
        "        with self.file.open('a') as file:\n            file.write(f'{step} ')\n"
        "    def close(self):\n        pass\n\n"
        "def start(*, folder, name, identity, settings, first_step):\n    return Mine(folder)\n"
    )
    report(run, (str(tmp_path / "mine.py"),))
    assert (run.logger_dir("mine") / "steps").read_text() == "1 2 3 "


@pytest.mark.parametrize("name", names("loggers"))
def test_every_entry_of_the_shelf_starts_in_the_same_way(name: str):
    module = entry("loggers", name)
    assert list(inspect.signature(module.start).parameters) == [
        "folder", "name", "identity", "settings", "first_step",
    ]  # fmt: skip
    assert all(issubclass(kind, BaseException) for kind in module.faults())


@pytest.mark.parametrize(
    ("given", "wanted"), [("wandb", ("wandb",)), ("none", ()), (["tensorboard"], ("tensorboard",))]
)
def test_report_to_takes_a_list_one_name_or_none(given: object, wanted: tuple[str, ...]):
    assert resolve(TrainerConfig, {"report_to": given}, "a test").report_to == wanted


def test_an_unknown_logger_is_refused_before_the_first_step_with_the_nearest_name():
    with pytest.raises(ConfigError, match="there is no logger 'tensorbord'") as caught:
        resolve(TrainerConfig, {"report_to": ["tensorbord"]}, "a test")
    assert "did you mean 'tensorboard'?" in caught.value.what
