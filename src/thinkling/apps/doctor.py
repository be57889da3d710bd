"""Is this machine set up? Facts are gathered once; what they mean is decided by pure functions, one row a check.

Most failures of a first run are not in the training code: a wheel for another driver, a CPU wheel on a machine with a
card, a container with less memory than the machine. Each row that is not OK carries the line that mends it.
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from rich.cells import set_cell_size

from thinkling.core.device import (
    WORTHWHILE_BF16,
    Card,
    Driver,
    Memory,
    cpu_facts,
    disk_free_gib,
    measure_peak,
    memory,
    nvidia_driver,
    usable_cores,
)
from thinkling.core.language import tr

TORCH = "torch>=2.11,<2.14"
PYTHON = (3, 11)
MEMORY_GIB = (2.0, 4.0)
"""Below the first nothing of use fits. Full fine-tuning of 135M parameters takes about 3: the second leaves room."""
DISK_GIB = (1.0, 5.0)
"""SmolLM2-135M takes 0.4 GB, one checkpoint with optimiser states 2 GB."""


class Level(StrEnum):
    """How a check came out. One FAIL makes the exit code 1."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Row:
    """What one check found."""

    name: str
    level: Level
    what: str
    fix: str = ""


@dataclass(frozen=True)
class TorchBuild:
    """The torch that is installed."""

    version: str
    """With its local part: 2.13.0+cpu, 2.13.0+cu130."""
    cuda: str = ""
    """CUDA that it was built with, such as "12.8"; empty for a CPU build."""
    cuda_available: bool = False
    archs: tuple[str, ...] = ()
    """What its kernels are compiled for: sm_80, compute_120 …"""
    other: str = ""
    """Another accelerator that it was built for, such as "ROCm 6.4"."""


@dataclass(frozen=True)
class Package:
    """One of our requirements."""

    name: str
    installed: str
    """Version; empty where it is missing."""
    wanted: str
    """The range of versions that we ask for."""
    fits: bool
    extra: str = ""
    """The extra that brings it, for optional ones."""


@dataclass(frozen=True)
class Facts:
    """All that the checks look at."""

    python: tuple[int, int, int]
    cores: int
    cpu: str
    flags: tuple[str, ...]
    memory: Memory
    disks: Mapping[str, float]
    """Folder to free GiB."""
    driver: Driver | None
    torch: TorchBuild | None
    torch_error: str
    """Why torch could not be imported."""
    peaks: Mapping[str, float]
    """FLOP/s reached: "cpu bf16", "cpu fp32", "cuda bf16"."""
    packages: tuple[Package, ...]
    variables: Mapping[str, str]
    """Environment variables that change what is found here."""
    liger: str = ""
    """Version of Liger's kernels, where they are taken on a card."""


@dataclass(frozen=True)
class Wheel:
    """A torch wheel for CUDA, as pytorch.org publishes it."""

    tag: str
    cuda: tuple[int, int]
    lowest: tuple[int, int]
    """Compute capabilities that it has kernels for, from … to."""
    highest: tuple[int, int]
    torch: str = TORCH


# The release matrix of torch 2.11 to 2.13 (pytorch/pytorch, RELEASE.md): from CUDA 12.8 on nothing older than Turing is
# built, and 12.8 itself ended with 2.11.
WHEELS = (
    Wheel("cu130", (13, 0), (7, 5), (12, 1)),
    Wheel("cu128", (12, 8), (7, 5), (12, 1), torch="torch>=2.11,<2.12"),
    Wheel("cu126", (12, 6), (5, 0), (9, 0)),
)


# from facts to rows -----------------------------------------------------------------------------------------------


def examine(facts: Facts) -> list[Row]:
    """Every check, in reading order."""
    rows = [_python(facts), _cores(facts), *_products(facts), _memory(facts), *_disks(facts)]
    return [*rows, _torch(facts), *_cards(facts), *_kernels(facts), _versions(facts), _optional(facts)]


def _python(facts: Facts) -> Row:
    version = ".".join(map(str, facts.python))
    if facts.python[:2] < PYTHON:
        wanted = ".".join(map(str, PYTHON))
        return Row(
            "python", Level.FAIL, version, tr("make the virtual environment anew with Python {v} or newer", v=wanted)
        )
    return Row("python", Level.OK, version)


def _cores(facts: Facts) -> Row:
    what = tr("{n} usable, {name}", n=facts.cores, name=facts.cpu or tr("processor unknown"))
    threads = facts.variables.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) < facts.cores:
        held = tr("{what}; OMP_NUM_THREADS={n} holds torch to {n}", what=what, n=threads)
        return Row("cores", Level.WARN, held, "unset OMP_NUM_THREADS")
    return Row("cores", Level.OK, what)


def _products(facts: Facts) -> Iterator[Row]:
    """What matrix products reach on the processor; a card's is in its own row."""
    half, single = facts.peaks.get("cpu bf16"), facts.peaks.get("cpu fp32")
    if not half or not single:
        return
    speed = tr("bf16 {half} and fp32 {single} TFLOP/s", half=f"{half / 1e12:.2f}", single=f"{single / 1e12:.2f}")
    units = [flag for flag in facts.flags if flag in ("amx_bf16", "avx512_bf16", "bf16")]
    what = f"{', '.join(facts.flags) or tr('flags unknown')}: {speed}"
    if units and half < WORTHWHILE_BF16 * single:
        slow = tr("{what}: {unit} is there, and torch does not reach it", what=what, unit=units[0])
        capped = [
            f"{k}={facts.variables[k]}" for k in ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY") if k in facts.variables
        ]
        fix = f"unset {capped[0].split('=')[0]}" if capped else tr("stop other work on these cores and measure again")
        yield Row("products", Level.WARN, slow, fix)
    else:
        yield Row("products", Level.OK, what)


def _memory(facts: Facts) -> Row:
    have = facts.memory
    limit = tr(", limited by the container") if have.limited_by == "cgroup" else ""
    what = (
        tr("{free} of {total} GiB available", free=f"{have.available_gib:.1f}", total=f"{have.total_gib:.1f}") + limit
    )
    level = _level(have.available_gib, MEMORY_GIB)
    fix = tr("close other programs, or take a smaller model and a smaller batch_tokens")
    return Row("memory", level, what, fix if level is not Level.OK else "")


def _disks(facts: Facts) -> Iterator[Row]:
    for folder, free in facts.disks.items():
        level = _level(free, DISK_GIB)
        fix = tr("free some space, or set THINKLING_HOME and run_dir to a larger disk") if level is not Level.OK else ""
        yield Row("disk", level, tr("{free} GiB free at {folder}", free=f"{free:.1f}", folder=folder), fix)


def _level(have: float, bounds: tuple[float, float]) -> Level:
    return Level.FAIL if have < bounds[0] else Level.WARN if have < bounds[1] else Level.OK


def _torch(facts: Facts) -> Row:
    """The build against the driver: the commonest reason why a first training run dies or never uses the card."""
    build, driver = facts.torch, facts.driver
    if build is None:
        fix = reinstall(driver) if driver and driver.cards else f'pip install --force-reinstall "{TORCH}"'
        return Row("torch", Level.FAIL, tr("cannot be imported: {why}", why=facts.torch_error), fix)
    if build.other:
        return Row("torch", Level.OK, f"{build.version}, {build.other}")
    if driver is None or not driver.cards:
        return Row(
            "torch", Level.OK, tr("{version}, no NVIDIA driver: everything runs on the CPU", version=build.version)
        )
    theirs = tr("driver {version} (CUDA {cuda})", version=driver.version, cuda=driver.cuda or "?")
    if not build.cuda:
        what = tr(
            "{version} is a CPU build, and here is an NVIDIA card, {driver}", version=build.version, driver=theirs
        )
        return Row("torch", Level.FAIL, what, reinstall(driver))
    if driver.cuda and _pair(driver.cuda) < _pair(build.cuda):
        return _driver_too_old(build, driver, theirs)
    if not build.cuda_available:
        return Row(
            "torch",
            Level.FAIL,
            tr("{version} cannot use the card, {driver}", version=build.version, driver=theirs),
            _unseen(facts),
        )
    return Row("torch", Level.OK, f"{build.version}, {theirs}")


def _driver_too_old(build: TorchBuild, driver: Driver, theirs: str) -> Row:
    what = tr(
        "{version} is built for CUDA {cuda}, newer than {driver}", version=build.version, cuda=build.cuda, driver=theirs
    )
    # Within one major version NVIDIA promises that older drivers work, without every feature.
    works = build.cuda_available and _pair(driver.cuda)[0] == _pair(build.cuda)[0]
    return Row("torch", Level.WARN if works else Level.FAIL, what, reinstall(driver))


def _unseen(facts: Facts) -> str:
    hidden = facts.variables.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and hidden.strip() in ("", "-1"):
        return "unset CUDA_VISIBLE_DEVICES"
    return tr(
        "restart the machine, so that the driver's kernel module and library are the same version; then ask again"
    )


def reinstall(driver: Driver) -> str:
    """The line that installs the torch which fits this driver and its cards."""
    wheel = fitting_wheel(driver)
    if wheel is None:
        return tr("update the NVIDIA driver to 580 or newer, then: {line}", line=_pip(WHEELS[0]))
    if driver.cuda and _pair(driver.cuda) < wheel.cuda:
        cuda = ".".join(map(str, wheel.cuda))
        return tr("{line}  (better: a driver for CUDA {cuda} or newer)", line=_pip(wheel), cuda=cuda)
    return _pip(wheel)


def fitting_wheel(driver: Driver) -> Wheel | None:
    """The newest wheel for these cards that the driver carries out in full, else one of its major version, if any."""
    cuda = _pair(driver.cuda) if driver.cuda else WHEELS[0].cuda
    cards = [_pair(card.capability) for card in driver.cards if card.capability]
    served = [wheel for wheel in WHEELS if all(wheel.lowest <= card <= wheel.highest for card in cards)]
    whole = [wheel for wheel in served if wheel.cuda <= cuda]
    same_major = [wheel for wheel in reversed(served) if wheel.cuda[0] == cuda[0]]
    return next(iter([*whole, *same_major]), None)


def _pip(wheel: Wheel) -> str:
    return f'pip install --force-reinstall "{wheel.torch}" --index-url https://download.pytorch.org/whl/{wheel.tag}'


def _pair(version: str) -> tuple[int, int]:
    major, _, minor = version.partition(".")
    return int(major), int(re.match(r"\d*", minor)[0] or 0)  # type: ignore[index]  # \d* always matches


def _cards(facts: Facts) -> Iterator[Row]:
    if facts.driver is None:
        return
    for number, card in enumerate(facts.driver.cards):
        reached = facts.peaks.get("cuda bf16") if number == 0 else None
        speed = tr(", bf16 {x} TFLOP/s", x=f"{reached / 1e12:.0f}") if reached else ""
        what = f"{number}: {card.name}, {card.memory_gib:.0f} GiB, sm_{card.capability.replace('.', '') or '?'}{speed}"
        yield _card(card, what, facts)


def _card(card: Card, what: str, facts: Facts) -> Row:
    build = facts.torch
    if build is None or not build.archs or not card.capability or runs_on(card.capability, build.archs):
        return Row("card", Level.OK, what)
    assert facts.driver is not None
    lacking = tr(
        "{what}: torch {version} has no kernels for it ({archs})",
        what=what,
        version=build.version,
        archs=" ".join(build.archs),
    )
    return Row("card", Level.FAIL, lacking, reinstall(facts.driver))


def runs_on(capability: str, archs: Sequence[str]) -> bool:
    """Whether kernels compiled for `archs` run on a card.

    Machine code (sm_86) runs on cards of its own major version that are not older; PTX (compute_120) on all newer ones.
    """
    card = _pair(capability)
    for arch in archs:
        kind, _, digits = arch.partition("_")
        number = re.match(r"\d+", digits)
        if number is None:
            continue
        built = int(number[0][:-1] or 0), int(number[0][-1])
        if (kind == "compute" and built <= card) or (kind == "sm" and built[0] == card[0] and built[1] <= card[1]):
            return True
    return False


def _kernels(facts: Facts) -> Iterator[Row]:
    """Whose norms, SwiGLU and rotations a training on a card takes; no fault whichever they are."""
    if not _has_usable_card(facts):
        return
    if facts.liger:
        yield Row("kernels", Level.OK, tr("Liger {version}", version=facts.liger))
        return
    line = f'pip install "thinkling[{LIGER}]"'
    yield Row("kernels", Level.OK, tr("torch's and our own ({line} brings Liger's)", line=line))


def _has_usable_card(facts: Facts) -> bool:
    return facts.torch is not None and facts.torch.cuda_available


def _versions(facts: Facts) -> Row:
    needed = [package for package in facts.packages if not package.extra]
    wrong = [package for package in needed if not package.fits]
    if not wrong:
        return Row("versions", Level.OK, tr("{n} packages, all within their ranges", n=len(needed)))
    what = ", ".join(f"{p.name} {p.installed or tr('is missing')} ({tr('wanted')}: {p.wanted or '*'})" for p in wrong)
    line = " ".join(f'"{package.name}{package.wanted}"' for package in wrong)
    return Row("versions", Level.FAIL, what, f"pip install {line}")


def _optional(facts: Facts) -> Row:
    # Kernels for cards have a row of their own, where there is a card.
    missing = [package for package in facts.packages if package.extra not in ("", LIGER) and not package.fits]
    if not missing:
        return Row("optional", Level.OK, tr("all optional packages are there"))
    extras = sorted({package.extra for package in missing})
    names = ", ".join(package.name for package in missing)
    line = " ".join(f'"thinkling[{extra}]"' for extra in extras)
    return Row("optional", Level.OK, tr("not installed: {names} (pip install {line})", names=names, line=line))


# gathering --------------------------------------------------------------------------------------------------------


def gather(folders: Sequence[Path]) -> Facts:
    """The facts of this machine; takes about two seconds, one of them for measured products."""
    name, flags = cpu_facts()
    build, error = _torch_build()
    return Facts(
        python=sys.version_info[:3],
        cores=usable_cores(),
        cpu=name or platform.processor(),
        flags=flags,
        memory=memory(),
        disks={str(folder.absolute()): disk_free_gib(folder) for folder in folders},
        driver=nvidia_driver(),
        torch=build,
        torch_error=error,
        peaks=_peaks(build),
        packages=tuple(_packages()),
        variables={k: v for k, v in os.environ.items() if k in VARIABLES},
        liger=_liger(build),
    )


LIGER = "liger"
"""The extra that brings Liger's kernels."""
VARIABLES = ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


def _torch_build() -> tuple[TorchBuild | None, str]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library that is missing or does not fit
        return None, str(error).partition("\n")[0]
    available = torch.cuda.is_available()
    archs = tuple(torch.cuda.get_arch_list()) if available else ()
    other = f"ROCm {torch.version.hip}" if torch.version.hip else ""
    return TorchBuild(torch.__version__, torch.version.cuda or "", available, archs, other), ""


def _liger(build: TorchBuild | None) -> str:
    if build is None or not build.cuda_available:
        return ""
    from thinkling.model import liger

    return liger.version()


def _peaks(build: TorchBuild | None) -> dict[str, float]:
    if build is None:
        return {}
    import torch

    peaks = {"cpu bf16": measure_peak(torch.bfloat16, 0.25), "cpu fp32": measure_peak(torch.float32, 0.25)}
    if build.cuda_available and (
        not build.archs or runs_on("{}.{}".format(*torch.cuda.get_device_capability()), build.archs)
    ):
        peaks["cuda bf16"] = measure_peak(torch.bfloat16, 0.25, "cuda")
    return peaks


def _packages() -> Iterator[Package]:
    """Our requirements against what is installed; `test` and `dev` are for those who change the program."""
    from importlib import metadata

    from packaging.requirements import Requirement

    for text in metadata.requires("thinkling") or []:
        requirement = Requirement(text)
        extra = re.search(r"extra == [\"']([\w-]+)[\"']", text)
        if extra and extra[1] in ("test", "dev"):
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            installed = ""
        fits = bool(installed) and requirement.specifier.contains(installed, prereleases=True)
        yield Package(requirement.name, installed, str(requirement.specifier), fits, extra[1] if extra else "")


# showing ----------------------------------------------------------------------------------------------------------


def lines(rows: Sequence[Row]) -> Iterator[tuple[Level | None, str]]:
    """(level, text) of each row, then (None, text) of the line that mends it, then one line for all."""
    for row in rows:
        yield row.level, f"{set_cell_size(tr(row.name), 10)}{row.what}"
        if row.fix:
            yield None, "      " + tr("fix: {fix}", fix=row.fix)
    bad = sum(row.level is not Level.OK for row in rows)
    yield (
        None,
        tr("nothing is wrong here") if not bad else tr("{n} of {all} checks found something", n=bad, all=len(rows)),
    )
