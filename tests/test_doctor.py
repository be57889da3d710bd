"""The doctor: planted faults, and whether the line that mends each of them is the right one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from thinkling.apps.doctor import (
    Facts,
    Level,
    Package,
    Row,
    TorchBuild,
    examine,
    fitting_wheel,
    gather,
    lines,
    runs_on,
)
from thinkling.core.device import Card, Driver, Memory

HEALTHY = Facts(
    python=(3, 12, 1),
    cores=8,
    cpu="A CPU",
    flags=("amx_bf16", "avx2"),
    memory=Memory(32.0, 20.0, "machine"),
    disks={"/home": 100.0},
    driver=None,
    torch=TorchBuild("2.13.0+cpu"),
    torch_error="",
    peaks={"cpu bf16": 2e12, "cpu fp32": 0.5e12},
    packages=(Package("typer", "0.28", ">=0.20", True),),
    variables={},
)
RTX_4060 = Card("NVIDIA GeForce RTX 4060", 8.0, "8.9")
RTX_5070 = Card("NVIDIA GeForce RTX 5070 Ti", 16.0, "12.0")
GTX_1080 = Card("NVIDIA GeForce GTX 1080", 8.0, "6.1")
CU130 = TorchBuild("2.13.0+cu130", "13.0", True, ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"))
CU128 = TorchBuild("2.11.0+cu128", "12.8", True, ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"))
INDEX = "--index-url https://download.pytorch.org/whl/"


def _driver(cuda: str, *cards: Card) -> Driver:
    return Driver("999.1", cuda, cards or (RTX_4060,))


def _row(name: str, **changes: object) -> Row:
    return next(row for row in examine(replace(HEALTHY, **changes)) if row.name == name)  # type: ignore[arg-type]


def test_a_healthy_machine_has_no_fault_and_needs_no_fix():
    assert {row.level for row in examine(HEALTHY)} == {Level.OK}
    assert [row.fix for row in examine(HEALTHY) if row.fix] == []


def test_a_healthy_card_has_no_fault():
    rows = examine(replace(HEALTHY, driver=_driver("13.0"), torch=CU130, peaks={**HEALTHY.peaks, "cuda bf16": 9e13}))
    assert {row.level for row in rows} == {Level.OK}
    assert "90 TFLOP/s" in next(row.what for row in rows if row.name == "card")


# torch against the driver -----------------------------------------------------------------------------------------


def test_a_cpu_wheel_beside_a_card_gets_the_exact_line_for_its_driver():
    row = _row("torch", driver=_driver("12.9"))
    assert row.level is Level.FAIL
    assert row.fix == f'pip install --force-reinstall "torch>=2.11,<2.12" {INDEX}cu128'
    assert _row("torch", driver=_driver("13.1")).fix.endswith("cu130")
    assert _row("torch", driver=_driver("12.6")).fix.endswith("cu126")


def test_a_wheel_newer_than_the_driver_warns_while_it_works_and_fails_when_it_does_not():
    works = _row("torch", driver=_driver("12.1"), torch=CU128)
    assert works.level is Level.WARN
    assert "CUDA 12.8" in works.what
    assert "12.1" in works.what
    dead = _row("torch", driver=_driver("12.1"), torch=replace(CU128, cuda_available=False, archs=()))
    assert dead.level is Level.FAIL
    # No wheel for CUDA 12.1 is made any more; 12.6 runs on it by NVIDIA's promise within a major version.
    assert f"{INDEX}cu126" in dead.fix
    assert "a driver for CUDA 12.6 or newer" in dead.fix


def test_a_wheel_of_the_next_major_version_fails_even_if_it_claims_to_work():
    row = _row("torch", driver=_driver("12.8"), torch=CU130)
    assert row.level is Level.FAIL
    assert row.fix.endswith("cu128")


def test_a_driver_that_no_wheel_serves_must_be_updated_first():
    assert "update the NVIDIA driver" in _row("torch", driver=_driver("11.8"), torch=CU130).fix
    # Blackwell has kernels from CUDA 12.8 on; with 12.6 the wheel of the same major version is the nearest.
    assert "cu128" in _row("torch", driver=_driver("12.6", RTX_5070)).fix


def test_the_wheel_fits_every_card_of_the_machine():
    assert fitting_wheel(_driver("13.0", GTX_1080)).tag == "cu126"  # type: ignore[union-attr]
    assert fitting_wheel(_driver("13.0", RTX_5070, RTX_4060)).tag == "cu130"  # type: ignore[union-attr]
    assert fitting_wheel(_driver("13.0", GTX_1080, RTX_5070)) is None


def test_a_card_that_the_wheel_has_no_kernels_for_fails_with_the_wheel_that_has():
    row = _row("card", driver=_driver("13.0", GTX_1080), torch=CU130)
    assert row.level is Level.FAIL
    assert "sm_61" in row.what
    assert row.fix.endswith("cu126")


def test_a_hidden_card_is_told_from_a_broken_driver():
    blind = replace(CU130, cuda_available=False, archs=())
    assert _row("torch", driver=_driver("13.0"), torch=blind, variables={"CUDA_VISIBLE_DEVICES": ""}).fix == (
        "unset CUDA_VISIBLE_DEVICES"
    )
    assert "restart" in _row("torch", driver=_driver("13.0"), torch=blind).fix


def test_a_torch_that_cannot_be_imported_says_why():
    row = _row("torch", torch=None, torch_error="libcudart.so.13: cannot open shared object file")
    assert row.level is Level.FAIL
    assert "libcudart" in row.what
    assert row.fix == 'pip install --force-reinstall "torch>=2.11,<2.14"'


def test_a_cuda_wheel_without_a_card_and_a_rocm_wheel_are_no_faults():
    assert _row("torch", torch=replace(CU130, cuda_available=False)).level is Level.OK
    assert _row("torch", driver=_driver("13.0"), torch=TorchBuild("2.13.0", other="ROCm 6.4")).level is Level.OK


@pytest.mark.parametrize(
    ("capability", "archs", "runs"),
    [
        ("8.9", ["sm_80", "sm_86"], True),  # machine code runs on newer cards of its major version
        ("8.0", ["sm_86"], False),
        ("9.0", ["sm_80", "sm_86"], False),
        ("12.0", ["sm_90", "compute_90"], True),  # PTX is compiled for any newer card
        ("8.9", ["compute_90"], False),
        ("12.0", ["sm_120"], True),
        ("10.0", ["sm_100a"], True),
        ("7.0", ["sm_75", "sm_80"], False),
        ("8.9", ["gfx90a"], False),
    ],
)
def test_which_kernels_run_on_which_card(capability: str, archs: list[str], runs: bool):
    assert runs_on(capability, archs) is runs


# the rest of the machine ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "changes", "level", "words"),
    [
        ("python", {"python": (3, 10, 9)}, Level.FAIL, "3.11"),
        ("cores", {"variables": {"OMP_NUM_THREADS": "1"}}, Level.WARN, "unset OMP_NUM_THREADS"),
        ("products", {"peaks": {"cpu bf16": 5e11, "cpu fp32": 5e11}}, Level.WARN, "amx_bf16"),
        ("memory", {"memory": Memory(3.0, 3.0, "cgroup")}, Level.WARN, "container"),
        ("memory", {"memory": Memory(32.0, 1.0, "machine")}, Level.FAIL, "1.0 of 32.0"),
        ("disk", {"disks": {"/home": 3.0}}, Level.WARN, "/home"),
        ("disk", {"disks": {"/home": 0.5}}, Level.FAIL, "THINKLING_HOME"),
        ("versions", {"packages": (Package("typer", "", ">=0.20", False),)}, Level.FAIL, 'pip install "typer>=0.20"'),
        ("versions", {"packages": (Package("rich", "13", ">=14", False),)}, Level.FAIL, "rich 13"),
    ],
)
def test_a_planted_fault_is_found_and_named(name: str, changes: dict[str, object], level: Level, words: str):
    row = _row(name, **changes)
    assert row.level is level
    assert words in f"{row.what} {row.fix}"
    assert row.fix


def test_a_capped_instruction_set_is_blamed_for_slow_products():
    slow = {"cpu bf16": 5e11, "cpu fp32": 5e11}
    assert _row("products", peaks=slow, variables={"ONEDNN_MAX_CPU_ISA": "AVX2"}).fix == "unset ONEDNN_MAX_CPU_ISA"


def test_slow_bf16_without_units_is_no_fault():
    assert _row("products", flags=("avx2",), peaks={"cpu bf16": 1e9, "cpu fp32": 5e11}).level is Level.OK


def test_a_missing_optional_package_is_mentioned_and_no_fault():
    row = _row("optional", packages=(Package("matplotlib", "", ">=3.9", False, extra="report"),))
    assert row.level is Level.OK
    assert 'pip install "thinkling[report]"' in row.what


def test_beside_a_card_it_is_told_whose_kernels_are_taken():
    card = {"torch": CU130, "driver": _driver("13.0")}
    assert "0.8.5" in _row("kernels", **card, liger="0.8.5").what
    assert 'pip install "thinkling[liger]"' in _row("kernels", **card).what


def test_without_a_card_nobody_is_sent_for_its_kernels():
    missing = (Package("liger-kernel", "", ">=0.8", False, extra="liger"),)
    rows = examine(replace(HEALTHY, packages=missing))
    assert not [row for row in rows if row.name == "kernels" or "liger" in row.what]


def test_every_fix_stands_below_its_row_and_the_end_says_how_many():
    shown = list(lines(examine(replace(HEALTHY, python=(3, 10, 0)))))
    assert shown[0][0] is Level.FAIL
    assert shown[1][0] is None
    assert "3.11" in shown[1][1]
    assert shown[-1] == (None, f"1 of {len(examine(HEALTHY))} checks found something")


def test_this_machine_can_be_looked_at(tmp_path: Path):
    rows = examine(gather([tmp_path / "new"]))
    assert {"python", "cores", "products", "memory", "disk", "torch", "versions", "optional"} <= {r.name for r in rows}
    assert next(row.level for row in rows if row.name == "versions") is Level.OK
