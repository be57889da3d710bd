"""The compiled kernels beside their oracles, in a process of its own: Inductor keeps state, and so do other tests.

python tests/compiling.py DTYPE     prints the largest error of each result and gradient as JSON, or what failed
"""

from __future__ import annotations

import json
import os
import sys

import torch

from thinkling.core.errors import MachineError
from thinkling.model import compiled
from thinkling.model.compiled import compiled_kernels
from thinkling.model.functions import rms_norm, rms_norm_plain, swiglu, swiglu_plain

WIDTH, FFN_WIDTH, EPSILON = 48, 80, 1e-5


def results(function, *leaves: torch.Tensor) -> list[torch.Tensor]:
    """What it gives, and its gradients under a fixed outer one."""
    own = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    out = function(*own)
    outer = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, own, outer)]


def largest_error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    """Beside the largest value, or 1 where that is smaller."""
    return float((ours.double() - exact).abs().max() / exact.abs().max().clamp(min=1))


def errors(dtype: torch.dtype) -> dict[str, list[float]]:
    """Of each function and number of rows: the result's error and its gradients'."""
    torch.manual_seed(0)
    found = {}
    for n in (1, 2, 9, 300):  # one compilation serves all numbers of rows; a single row is left to the eager code
        x, weight = torch.randn(n, WIDTH).to(dtype), torch.randn(WIDTH).to(dtype)
        gate, up = torch.randn(2, n, FFN_WIDTH).to(dtype).unbind()
        norms = (lambda x, w: rms_norm(x, w, EPSILON)), (lambda x, w: rms_norm_plain(x, w, EPSILON))
        for name, (ours, plain), leaves in (
            ("rms_norm", norms, (x, weight)),
            ("swiglu", (swiglu, swiglu_plain), (gate, up)),
        ):
            exact = results(plain, *(leaf.double() for leaf in leaves))
            found[f"{name} {n}"] = [
                largest_error(one, other) for one, other in zip(results(ours, *leaves), exact, strict=True)
            ]
    heads, weight = torch.randn(5, 3, 2 * WIDTH).to(dtype)[..., :WIDTH], torch.randn(WIDTH).to(dtype)
    wanted = rms_norm_plain(heads.double(), weight.double(), EPSILON)
    found["rms_norm of slices"] = [largest_error(rms_norm(heads, weight, EPSILON), wanted)]
    return found


def main(dtype: torch.dtype) -> dict[str, object]:
    try:
        with compiled_kernels(WIDTH, FFN_WIDTH, dtype, torch.device("cpu")):
            used = compiled.kernel("rms_forward") is not None
            found = errors(dtype)
    except MachineError as error:
        return {"failed": str(error), "left": compiled.kernel("rms_forward") is not None}
    return {"used": used, "left": compiled.kernel("rms_forward") is not None, "errors": found}


def refusal() -> str | None:
    """What Inductor says where it cannot compile even this on this machine."""
    try:
        torch.compile(lambda x: 2 * x.float(), dynamic=True)(torch.ones(3, 4))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is not of our kernels
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    seen = {name: main(getattr(torch, name)) for name in sys.argv[1:]}
    failed = any("failed" in found for found in seen.values())
    print(json.dumps({"cannot": refused} if failed and "CXX" not in os.environ and (refused := refusal()) else seen))
