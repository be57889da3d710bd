"""The element-wise functions of the decoder, compiled by torch (Inductor) into one pass over memory each.

An option, because it costs before it gains: half a minute on two cores the first time on a machine, some seconds from
Inductor's cache after that, and it needs a C++ compiler. The cache is THINKLING_HOME/compiled, unless torch's own
TORCHINDUCTOR_CACHE_DIR is set: where temporary files go, torch's choice, others could lay kernels. Matrix products and
attention gain nothing from it and stay as they are. The formulas are those of functions.py, computed in fp32 and
rounded once, where the eager ones round after each operation; both are held against the same oracles. Shapes are
dynamic in the number of rows, so that no later step compiles anything: what would have to be compiled anew is an error,
not a silent return to eager code.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from thinkling.core.errors import ConfigError, MachineError
from thinkling.core.language import tr
from thinkling.model.pull import cache_root

CACHE = "TORCHINDUCTOR_CACHE_DIR"

_in_use: dict[str, Callable[..., Any]] = {}


def kernel(name: str) -> Callable[..., Any] | None:
    """The compiled function of this name; None: the eager one counts."""
    return _in_use.get(name)


def compiler() -> str | None:
    """The C++ compiler that Inductor would call."""
    return shutil.which(os.environ.get("CXX", "g++"))


def refuse_compiling(device: torch.device) -> None:
    """Refuse where nothing would come of it.

    Raises:
        ConfigError: There is no C++ compiler, or a card computes, where other kernels serve (functions.py).
    """
    if device.type != "cpu":
        raise ConfigError(
            tr("torch_compile has no effect on a card: its kernels are torch's own, or Liger's"),
            where="torch_compile = true",
            fix=tr("leave torch_compile out"),
        )
    if compiler() is None:
        raise ConfigError(
            tr("there is no C++ compiler to compile with ({name})", name=os.environ.get("CXX", "g++")),
            where="torch_compile = true",
            fix=tr("install g++, name another compiler in CXX, or leave torch_compile out"),
        )


@contextlib.contextmanager
def compiled_kernels(width: int, ffn_width: int, dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Within, functions.py computes with compiled kernels; they are compiled before the block begins.

    Args:
        width: D of the hidden states.
        ffn_width: F of the feed-forward.

    Raises:
        ConfigError: As `refuse_compiling`.
        MachineError: The compiler failed.
    """
    refuse_compiling(device)
    os.environ.setdefault(CACHE, str(cache_root() / "compiled"))
    kernels = {name: _compiled(function) for name, function in _FUNCTIONS.items()}
    try:
        _warm_up(kernels, width, ffn_width, dtype, device)
    except Exception as error:  # Inductor lets through whatever its parts raise; what is not its own goes on up
        if not _is_of_the_compiler(error):
            raise
        raise MachineError(
            tr("the kernels could not be compiled: {error}", error=_cause(error)),
            where=tr(
                "torch_compile = true, with {compiler}, kept in {folder}", compiler=compiler(), folder=os.environ[CACHE]
            ),
            fix=tr(
                "look whether the compiler and the headers of Python are whole, delete that folder, "
                "or leave torch_compile out"
            ),
        ) from error
    _in_use.update(kernels)
    try:
        yield
    finally:
        _in_use.clear()


def _is_of_the_compiler(error: Exception) -> bool:
    return type(error).__module__.startswith(("torch._inductor", "torch._dynamo"))


def _cause(error: Exception) -> str:
    """What Inductor says, without the line in which Dynamo says that Inductor said it."""
    told = [line.strip() for line in str(getattr(error, "inner_exception", error)).splitlines() if line.strip()]
    return " ".join(told[:3]) or type(error).__name__


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    # fullgraph: what cannot be compiled is an error. dynamic: the number of rows is no part of the code.
    return torch.compile(function, fullgraph=True, dynamic=True)


def _warm_up(
    kernels: dict[str, Callable[..., Any]], width: int, ffn_width: int, dtype: torch.dtype, device: torch.device
) -> None:
    """Call each once, with tensors as training has them."""
    like: dict[str, Any] = {"dtype": dtype, "device": device}
    x, weight = torch.zeros(32, width, **like), torch.ones(width, **like)
    _, normed, scale = kernels["rms_forward"](x, weight, 1e-5)
    kernels["rms_backward"](x, normed, weight, scale)
    wide = torch.zeros(32, ffn_width, **like)
    kernels["swiglu_forward"](wide, wide)
    kernels["swiglu_backward"](wide, wide, wide)


# what is compiled; the names are those of functions.py ----------------------------------------------------------------


def _rms_forward(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """x (N, D), weight (D,) -> the norm's result (N, D), x over its root mean square (N, D), and its inverse (N, 1)."""
    wide = x.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    normed = (wide * scale).to(x.dtype)
    return normed * weight, normed, scale


def _rms_backward(gradient: Tensor, normed: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The gradient of x (N, D)."""
    through, wide = gradient.float() * weight.float(), normed.float()
    mean = (through * wide).mean(-1, keepdim=True)
    return ((through - wide * mean) * scale).to(gradient.dtype)


def _swiglu_forward(gate: Tensor, up: Tensor) -> Tensor:
    """(N, F) each."""
    return (F.silu(gate.float()) * up.float()).to(gate.dtype)


def _swiglu_backward(gradient: Tensor, gate: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of gate and up, (N, F) each, with one sigmoid for both."""
    wide, out = gate.float(), gradient.float()
    share = torch.sigmoid(wide)
    d_gate = out * up.float() * share * (1 + wide * (1 - share))
    return d_gate.to(gate.dtype), (out * wide * share).to(up.dtype)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "rms_forward": _rms_forward,
    "rms_backward": _rms_backward,
    "swiglu_forward": _swiglu_forward,
    "swiglu_backward": _swiglu_backward,
}
