"""The machine: cores, memory, disk, graphics cards, matrix units, and the speed that a product really reaches.

What can be known without torch is known without it. Limits that a container sets (cgroup) count, because they are what
ends a process. A list of CPU flags says little about speed, so the number type is chosen by a measured product.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")
UNLIMITED = 2**60
"""cgroup v1 writes a number near 2^63 where there is no limit."""
MATRIX_FLAGS = ("amx_bf16", "amx_int8", "avx512_bf16", "avx512_vnni", "avx512f", "avx2", "bf16", "asimd")
"""CPU flags that say how matrix products are done, the fastest first (the last two are ARM's)."""
WORTHWHILE_BF16 = 1.3
"""bf16 costs digits; below this speed-up over fp32 (emulated bf16 is slower than fp32) they are not worth it."""


@dataclass(frozen=True)
class Memory:
    """Main memory that this process may use."""

    total_gib: float
    available_gib: float
    """What can still be had now without swapping."""
    limited_by: str
    """"machine", or "cgroup" where a container allows less."""


@dataclass(frozen=True)
class Card:
    """One NVIDIA card, as nvidia-smi tells it."""

    name: str
    memory_gib: float
    capability: str
    """Compute capability, such as "8.9"; empty where an old driver does not tell it."""


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver, as nvidia-smi tells it."""

    version: str
    cuda: str
    """The newest CUDA that this driver carries out in full, such as "12.1"; empty where it does not tell."""
    cards: tuple[Card, ...]


# processor, memory, disk ------------------------------------------------------------------------------------------


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Cores that this process may use: affinity and container quota both count. At least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cpu_quota(cgroup)
    return max(1, min(allowed, round(quota))) if quota else allowed


def _cpu_quota(cgroup: Path) -> float | None:
    """Cores' worth of time per period; None where nothing is set."""
    words = _words(cgroup / "cpu.max")  # v2: "200000 100000", or "max 100000"
    if not words:
        words = _words(cgroup / "cpu/cpu.cfs_quota_us") + _words(cgroup / "cpu/cpu.cfs_period_us")
    numbers = [int(word) for word in words if word.isdigit()]
    return numbers[0] / numbers[1] if len(numbers) == 2 and numbers[0] and numbers[1] else None


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").split()
    except OSError:
        return []


def memory(cgroup: Path = CGROUP) -> Memory:
    """Main memory that this process may use, the container's limit included."""
    machine = psutil.virtual_memory()
    limit = _bytes(cgroup / "memory.max") or _bytes(cgroup / "memory/memory.limit_in_bytes")
    if limit is None or limit >= machine.total:
        return Memory(machine.total / GIB, machine.available / GIB, "machine")
    used = _bytes(cgroup / "memory.current") or _bytes(cgroup / "memory/memory.usage_in_bytes") or 0
    return Memory(limit / GIB, min(machine.available, max(0, limit - used)) / GIB, "cgroup")


def _bytes(file: Path) -> int | None:
    words = _words(file)
    return int(words[0]) if words and words[0].isdigit() and int(words[0]) < UNLIMITED else None


def process_memory_gib() -> float:
    """Resident memory of this process, GiB."""
    return float(psutil.Process().memory_info().rss) / GIB


def process_peak_memory_gib() -> float:
    """The most resident memory this process has had, GiB; Linux counts it in KiB, macOS in bytes."""
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def forget_process_peak() -> None:
    """Count the most resident memory anew from here, where the system can (Linux): one process may train many times."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # not every container lets a process write there
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def return_freed_memory() -> None:
    """Give pages that were freed back to the system, where the C library can (glibc); elsewhere nothing happens."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def disk_free_gib(path: Path) -> float:
    """Free space where `path` is, or would be made, GiB."""
    there = next(p for p in [path.absolute(), *path.absolute().parents] if p.exists())
    return shutil.disk_usage(there).free / GIB


def cpu_facts(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, tuple[str, ...]]:
    """Name of the processor and its matrix flags, the fastest first; ("", ()) where the system does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "", ()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set((facts.get("flags") or facts.get("Features") or "").split())
    return facts.get("model name", ""), tuple(flag for flag in MATRIX_FLAGS if flag in flags)


# graphics cards without torch -------------------------------------------------------------------------------------


def nvidia_driver(run: Callable[[Sequence[str]], str | None] | None = None) -> Driver | None:
    """Driver and cards by nvidia-smi; None where there is no working nvidia-smi."""
    ask = run or _nvidia_smi
    listing = ask(["--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader,nounits"])
    if listing is None:  # drivers before 510 do not know compute_cap
        listing = ask(["--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"])
    if listing is None:
        return None
    rows = [[cell.strip() for cell in line.split(",")] for line in listing.splitlines() if line.count(",") >= 2]
    _, _, cuda = (ask([]) or "").partition("CUDA Version:")
    version = rows[0][2] if rows else ""
    cards = tuple(Card(row[0], _mebibytes(row[1]), _known(row[3]) if len(row) > 3 else "") for row in rows)
    return Driver(version, _known(cuda), cards)


def _known(text: str) -> str:
    """The version at the beginning of a text; empty where nvidia-smi writes N/A, as in a container without libcuda."""
    found = re.match(r"\s*(\d+\.\d+)", text)
    return found[1] if found else ""


def _mebibytes(text: str) -> float:
    return int(text) / 1024 if text.isdigit() else 0.0


def _nvidia_smi(arguments: Sequence[str]) -> str | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        # A driver in trouble can make nvidia-smi hang for minutes.
        result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=20, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None


# with torch -------------------------------------------------------------------------------------------------------


def default_device() -> torch.device:
    """The first CUDA device where torch can use one, else the CPU."""
    import torch

    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def moved(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """The tensor on that device. On the way to a card nobody waits for what is queued there: a copy out of pinned
    memory is queued behind it, and torch keeps that memory until it is made.
    """
    import torch

    if torch.device(device).type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@functools.cache
def compute_dtype(device_type: str | None = None) -> torch.dtype:
    """bfloat16 where it pays, else float32: CUDA cards that have it, CPUs where a product is 1.3 times as fast."""
    import torch

    kind = device_type or default_device().type
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if kind != "cpu":
        return torch.float32
    half, single = measure_peak(torch.bfloat16, 0.1), measure_peak(torch.float32, 0.1)
    return torch.bfloat16 if half >= WORTHWHILE_BF16 * single else torch.float32


def measure_peak(dtype: torch.dtype, seconds: float = 0.5, device_type: str = "cpu") -> float:
    """FLOP/s of the best of the square products that fit into `seconds`, the first left out. At least one is timed."""
    import torch

    # On the CPU a product of 1,024 reaches half of what 2,048 does with AMX, and 4,096 no more; a card needs more work.
    width = 8192 if device_type == "cuda" else 2048
    left = torch.ones(width, width, dtype=dtype, device=device_type)
    right = torch.ones(width, width, dtype=dtype, device=device_type)
    result = torch.empty(width, width, dtype=dtype, device=device_type)
    _timed_product(left, right, result)  # the first one loads kernels and wakes the threads
    best = float("inf")
    end = time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        best = min(best, _timed_product(left, right, result))
    return 2 * width**3 / best


def _timed_product(left: torch.Tensor, right: torch.Tensor, result: torch.Tensor) -> float:
    import torch

    started = time.perf_counter()
    torch.mm(left, right, out=result)
    if left.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
