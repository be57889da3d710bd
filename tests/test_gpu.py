"""What runs on a card alone, against the oracles of the CPU: variable-length attention, Liger's kernels, a whole step.

Of Liger's kernels Triton 3.9 interprets the rotation in fp32 where TRITON_INTERPRET=1 is set, so that it can be seen
without a card; in the others it stumbles over numbers that are no tensors, and it has no arithmetic of bf16.
"""

from __future__ import annotations

import copy
import os
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from test_card import METHODS, step, tuned

from thinkling.engine.settings import TrainerConfig
from thinkling.model import functions, liger
from thinkling.model.attend import PackedAttend, has_varlen
from thinkling.model.decoder import Decoder

pytestmark = pytest.mark.gpu
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_card = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def _torchs_norm(x, weight, epsilon):
    return F.rms_norm(x, weight.shape, weight, epsilon)


def _both(rotate):
    return lambda q, k, cos, sin: (rotate(q, cos, sin), rotate(k, cos, sin))


WAYS = {
    "rms_norm": {"liger": liger.rms_norm, "torch": _torchs_norm, "ours": functions._RMSNorm.apply},
    "swiglu": {"liger": liger.swiglu, "ours": functions._SwiGLU.apply},
    "rotate": {"liger": liger.rotate, "ours": _both(functions.rotate)},
}
PLAIN = {
    "rms_norm": functions.rms_norm_plain,
    "swiglu": functions.swiglu_plain,
    "rotate": _both(functions.rotate_plain),
}


def refuse_what_is_not_here(way, interpreted=False):
    if way == "liger" and not liger.version():
        pytest.skip("liger-kernel and triton are not installed")
    if not torch.cuda.is_available() and not (way == "liger" and interpreted and INTERPRETED):
        pytest.skip("needs a CUDA device")


def inputs(function, dtype, width):
    """Leaves, and what else the function takes."""
    generator = torch.Generator().manual_seed(width)

    def drawn(*shape):
        return torch.randn(shape, generator=generator).to(dtype).to(DEVICE)

    if function == "rms_norm":
        return [drawn(37, width), drawn(width)], [1e-5]
    if function == "swiglu":
        return [drawn(37, width), drawn(37, width)], []
    angles = torch.randn(37, 1, width // 2, generator=generator).to(DEVICE)
    cos, sin = (torch.cat([x, x], dim=-1).to(dtype) for x in (angles.cos(), angles.sin()))
    return [drawn(37, 6, width), drawn(37, 2, width)], [cos, sin]


def results(function, leaves, more):
    """Outputs and gradients; in the layers before a card's kernels lie products, whose outputs they may overwrite."""
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    out = function(*(leaf * 1 for leaf in leaves), *more)
    outs = out if isinstance(out, tuple) else (out,)
    outer = [torch.cos(torch.arange(one.numel(), device=one.device)).view_as(one).to(one.dtype) for one in outs]
    return [one.detach().clone() for one in outs] + list(torch.autograd.grad(outs, leaves, outer))


@pytest.mark.parametrize("width", [64, 96, 576])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("function", "way"), [(name, way) for name, ways in WAYS.items() for way in ways])
def test_every_kernel_equals_the_plain_function_and_its_gradient(function, way, dtype, width):
    refuse_what_is_not_here(way, interpreted=function == "rotate" and dtype == torch.float32)
    leaves, more = inputs(function, dtype, width)
    wide = [one.float() if isinstance(one, torch.Tensor) else one for one in more]
    exact = results(PLAIN[function], [leaf.float() for leaf in leaves], wide)
    given = results(WAYS[function][way], leaves, more)
    for ours, theirs in zip(given, exact, strict=True):
        # bf16 has 8 bits: three roundings lie within 2^-6 of what is about as large as the largest of the row.
        bound = 1e-5 if dtype == torch.float32 else 2.0**-6
        assert (ours.float() - theirs).abs().max() <= bound * theirs.abs().max()


@pytest.mark.parametrize("qk_norm", [False, True])
def test_ligers_kernels_leave_the_gradient_of_a_whole_model(tiny_config, qk_norm, monkeypatch):
    refuse_what_is_not_here("liger")
    torch.manual_seed(0)
    model = Decoder(replace(tiny_config, qk_norm=qk_norm)).to(DEVICE)
    tokens, starts = torch.arange(40, device=DEVICE), torch.tensor([0, 25, 40])
    positions = torch.cat([torch.arange(25), torch.arange(15)]).to(DEVICE)
    gradients = []
    for way in ("ours", "liger"):
        if way == "liger":
            monkeypatch.setattr("thinkling.model.decoder.rms_norm", liger.rms_norm)
            monkeypatch.setattr("thinkling.model.decoder.swiglu", liger.swiglu)
            monkeypatch.setattr("thinkling.model.decoder.rotate_both", liger.rotate)
        else:
            monkeypatch.setattr(liger, "version", lambda: "")
        model.zero_grad()
        model(tokens, positions, PackedAttend(starts)).square().sum().backward()
        gradients.append([p.grad.to_dense() for p in model.parameters() if p.grad is not None])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@needs_card
@pytest.mark.parametrize("way", ["varlen", "products"])
@pytest.mark.parametrize("lengths", [[1], [7, 64, 1, 130], [600, 33]])
def test_attention_on_a_card_equals_the_plain_one(way, lengths):
    if way == "varlen" and not has_varlen():
        pytest.skip("torch's variable-length attention is older than 2.12")
    generator = torch.Generator().manual_seed(0)
    starts = torch.tensor([0, *lengths]).cumsum(0)
    leaves = [torch.randn(sum(lengths), heads, 64, generator=generator) for heads in (6, 2, 2)]
    found = []
    for device, dtype, taken in (("cpu", torch.float32, "sdpa"), ("cuda", torch.bfloat16, way)):
        here = [leaf.to(device, dtype).requires_grad_() for leaf in leaves]
        out = PackedAttend(starts, way=taken)(0, *here)
        out.backward(torch.ones_like(out))
        found.append([x.detach().float().cpu() for x in (out, *(leaf.grad for leaf in here))])
    for exact, ours in zip(*found, strict=True):
        assert (ours - exact).abs().max() <= 2.0**-5 * exact.abs().max()


@needs_card
def test_sharing_a_prefix_on_a_card_equals_the_plain_way():
    generator = torch.Generator().manual_seed(0)
    starts, prefixes = torch.tensor([0, 20, 30, 47]), (-1, 0, 0)
    leaves = [torch.randn(47, heads, 16, generator=generator) for heads in (6, 2, 2)]
    found = []
    for device, way in (("cpu", "sdpa"), ("cuda", None)):
        here = [leaf.to(device).requires_grad_() for leaf in leaves]
        PackedAttend(starts, prefixes, way)(0, *here).square().sum().backward()
        found.append([leaf.grad.cpu() for leaf in here])
    for exact, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-4)


@needs_card
@pytest.mark.parametrize("method", METHODS)
def test_a_step_on_a_card_gives_the_numbers_of_the_cpu(tiny_model, method):
    config = TrainerConfig(micro_batch_tokens=20, head_chunk=7)
    model = tuned(tiny_model, method, torch.float32)
    wanted = step(copy.deepcopy(model), config)
    given = step(model.to("cuda"), config)
    assert given[0] == pytest.approx(wanted[0], rel=1e-4)
    for ours, theirs in zip(given[2], wanted[2], strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=1e-3, atol=1e-5)
