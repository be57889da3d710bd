"""kill -9 at any instant, a power cut before every change of the disk, a disk that fills up: the run comes to the very
end it would have come to, bit for bit. tests/killing.py does it, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="which file is synced is read from /proc")


def seen(mode: str, folder: Path) -> dict[str, Any]:
    """What tests/killing.py saw."""
    command = [sys.executable, str(HERE / "killing.py"), mode, str(folder)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_killed_fifty_times_at_random_and_always_resumed_it_ends_as_one_never_stopped(tmp_path: Path):
    found = seen("kills", tmp_path)
    assert found["kills"] >= 50
    assert found["equal"], found


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["power", "power-late"])
def test_whatever_a_power_cut_leaves_the_run_goes_on_from_its_last_checkpoint_to_the_same_end(
    tmp_path: Path, mode: str
):
    found = seen(mode, tmp_path)
    assert found["states"] > 50, found
    assert found["faults"] == []


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "full-late"])
def test_a_disk_full_at_any_change_stops_the_run_in_words_and_leaves_it_resumable(tmp_path: Path, mode: str):
    found = seen(mode, tmp_path)
    assert found["changes"] > 30, found
    assert found["faults"] == []


def test_of_two_processes_on_one_run_folder_one_is_refused(tmp_path: Path):
    assert seen("two", tmp_path)["exit_codes"] == [0, 4]
