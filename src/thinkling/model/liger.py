"""Liger's Triton kernels for a card, behind the signatures of functions.py; taken where `liger-kernel` is installed.

Hsu et al. 2024 (arXiv:2410.10989). One kernel forward and one backward in place of several passes over memory. Two of
them write where they read: `swiglu` leaves its gradients in the memory of gate and up, `rotate` turns q and k in place.
In the decoder nothing else reads these, and a graph is walked backward once; elsewhere hand over copies.
"""

from __future__ import annotations

import functools
import importlib.util
from importlib import metadata

from torch import Tensor

OLDEST = (0, 8)
"""The first version whose signatures were read; they are no promise of that library."""


@functools.cache
def version() -> str:
    """Of the installed library, where its kernels are taken: it is new enough, and Triton is there. Else empty."""
    try:
        found = metadata.version("liger-kernel")
    except metadata.PackageNotFoundError:
        return ""
    major, minor = (int(part) for part in found.split(".")[:2])
    return found if (major, minor) >= OLDEST and importlib.util.find_spec("triton") is not None else ""


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """As functions.rms_norm, rounded as it: x (..., D), weight (D,) -> (..., D)."""
    from liger_kernel.ops.rms_norm import LigerRMSNormFunction

    # "llama": normed in fp32, rounded, then multiplied. False: the gradient that comes in is left as it is.
    out: Tensor = LigerRMSNormFunction.apply(x, weight, epsilon, 0.0, "llama", False)
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """As functions.swiglu: (..., F) each. The backward pass overwrites both."""
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    out: Tensor = LigerSiLUMulFunction.apply(gate, up)
    return out


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """As functions.rotate of both: q (N, H, E), k (N, K, E), cos and sin (N, 1, E). Overwrites q and k."""
    from liger_kernel.ops.rope import LigerRopeFunction

    # It takes (1, H, N, E) and works on the memory of (1, N, H, E), which is how ours lies: views alone.
    folded = (x.transpose(0, 1).unsqueeze(0) for x in (q, k))
    turned = LigerRopeFunction.apply(*folded, cos.transpose(0, 1), sin.transpose(0, 1))
    q, k = (x.squeeze(0).transpose(0, 1) for x in turned)
    return q, k
