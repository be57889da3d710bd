"""The machine as it is: what a container allows counts, and speed is measured, not read from flags."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch

from thinkling.apps.doctor import reinstall
from thinkling.core import device
from thinkling.core.device import (
    compute_dtype,
    cpu_facts,
    disk_free_gib,
    measure_peak,
    memory,
    nvidia_driver,
    usable_cores,
)


def test_cores_are_those_of_the_affinity(tmp_path: Path):
    allowed = os.sched_getaffinity(0)
    assert usable_cores(tmp_path) == len(allowed)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores(tmp_path) == 1
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "max 100000"}, 64),
        ({"cpu.max": "50000 100000"}, 1),  # half a core is still one thread
        ({"cpu.max": "350000 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ({"cpu.max": "no such thing"}, 64),
    ],
)
def test_a_containers_quota_limits_the_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    _write(tmp_path, files)
    assert usable_cores(tmp_path) == cores


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


def test_memory_is_the_machines_where_no_container_limits_it(tmp_path: Path):
    _write(tmp_path, {"memory.max": "max"})
    found = memory(tmp_path)
    assert found.limited_by == "machine"
    assert found.total_gib == psutil.virtual_memory().total / 2**30
    assert 0 < found.available_gib <= found.total_gib


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": str(2**30), "memory.current": str(2**28)},
        {"memory/memory.limit_in_bytes": str(2**30), "memory/memory.usage_in_bytes": str(2**28)},
    ],
)
def test_a_containers_limit_counts_as_the_memory(tmp_path: Path, files: dict[str, str]):
    _write(tmp_path, files)
    found = memory(tmp_path)
    assert (found.total_gib, found.limited_by) == (1.0, "cgroup")
    assert found.available_gib == 0.75


def test_the_huge_number_of_cgroup_1_is_no_limit(tmp_path: Path):
    _write(tmp_path, {"memory/memory.limit_in_bytes": "9223372036854771712"})
    assert memory(tmp_path).limited_by == "machine"


def test_free_space_is_known_for_a_folder_that_is_yet_to_be_made(tmp_path: Path):
    assert disk_free_gib(tmp_path / "a" / "b") == pytest.approx(disk_free_gib(tmp_path), rel=0.1)


def test_matrix_flags_come_fastest_first_and_lookalikes_do_not_count(tmp_path: Path):
    (tmp_path / "cpuinfo").write_text("model name\t: A CPU\nflags\t\t: avx2 fma amx_bf16 avx512f avx512_bf16x\n")
    assert cpu_facts(tmp_path / "cpuinfo") == ("A CPU", ("amx_bf16", "avx512f", "avx2"))
    (tmp_path / "arm").write_text("Features\t: fp asimd bf16\n")
    assert cpu_facts(tmp_path / "arm") == ("", ("bf16", "asimd"))
    assert cpu_facts(tmp_path / "none") == ("", ())


# the driver -------------------------------------------------------------------------------------------------------

TABLE = "| NVIDIA-SMI 530.30.02    Driver Version: 530.30.02    CUDA Version: 12.1     |\n"


def _smi(listing: str | None, *, knows_capability: bool = True, table: str = TABLE):
    def run(arguments: Sequence[str]) -> str | None:
        if not arguments:
            return table
        return listing if knows_capability or "compute_cap" not in arguments[0] else None

    return run


def test_the_driver_and_every_card_are_read():
    listing = "NVIDIA GeForce RTX 4060, 8188, 530.30.02, 8.9\nNVIDIA H200, 143771, 530.30.02, 9.0\n"
    found = nvidia_driver(_smi(listing))
    assert found is not None
    assert (found.version, found.cuda) == ("530.30.02", "12.1")
    assert [(c.name, round(c.memory_gib), c.capability) for c in found.cards] == [
        ("NVIDIA GeForce RTX 4060", 8, "8.9"),
        ("NVIDIA H200", 140, "9.0"),
    ]


def test_an_old_driver_that_does_not_know_capabilities_is_asked_again():
    found = nvidia_driver(_smi("Tesla K80, 11441, 470.1\n", knows_capability=False, table=""))
    assert found is not None
    assert (found.cards[0].capability, found.cuda) == ("", "")


def test_what_nvidia_smi_does_not_know_is_not_taken_for_a_version():
    found = nvidia_driver(_smi("Tesla T4, 15360, 550.1, [N/A]\n", table="| CUDA Version: N/A     |"))
    assert found is not None
    assert (found.cuda, found.cards[0].capability) == ("", "")
    assert "pip install" in reinstall(found)


def test_without_nvidia_smi_or_with_a_broken_one_there_is_no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert nvidia_driver(lambda _: None) is None
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho no devices; exit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert nvidia_driver() is None


# speed ------------------------------------------------------------------------------------------------------------


def test_a_measured_peak_is_what_the_same_product_takes_within_a_factor_of_ten():
    left = torch.ones(2048, 2048)
    torch.mm(left, left)
    seconds = min(device._timed_product(left, left, torch.empty(2048, 2048)) for _ in range(2))
    # 2 n^3 operations; machines here drift by a factor of three between two measurements
    assert 0.1 < measure_peak(torch.float32, 0.0) / (2 * 2048**3 / seconds) < 10


@pytest.mark.parametrize(
    ("half", "single", "dtype"),
    [(1.29e12, 1e12, torch.float32), (1.31e12, 1e12, torch.bfloat16), (1e9, 1e12, torch.float32)],
)
def test_bf16_is_taken_only_where_it_pays(
    monkeypatch: pytest.MonkeyPatch, half: float, single: float, dtype: torch.dtype
):
    monkeypatch.setattr(device, "measure_peak", lambda kind, *_: half if kind is torch.bfloat16 else single)
    compute_dtype.cache_clear()
    try:
        assert compute_dtype("cpu") is dtype
    finally:
        compute_dtype.cache_clear()
