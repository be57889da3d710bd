"""Compiled kernels: the plain functions and their gradients, in place only where a training asked for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from thinkling.core.errors import ConfigError
from thinkling.model import compiled
from thinkling.model.compiled import compiled_kernels, compiler
from thinkling.model.functions import rms_norm, rms_norm_plain, swiglu, swiglu_plain

WIDTH, FFN_WIDTH = 48, 80
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler on this machine")
DTYPES = [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)]


def kernels(dtype: torch.dtype):
    return compiled_kernels(WIDTH, FFN_WIDTH, dtype, torch.device("cpu"))


def results(function, *leaves: torch.Tensor) -> list[torch.Tensor]:
    """What it gives, and its gradients under a fixed outer one."""
    own = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    out = function(*own)
    outer = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out.dtype)
    return [out, *torch.autograd.grad(out, own, outer)]


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_compiled_kernels_agree_with_the_plain_functions_and_their_gradients(dtype, tolerance):
    torch.manual_seed(0)
    with kernels(dtype):
        assert compiled.kernel("rms_forward") is not None
        for n in (1, 2, 9, 300):  # one compilation serves all numbers of rows; a single row is left to the eager code
            x, weight = torch.randn(n, WIDTH).to(dtype), torch.randn(WIDTH).to(dtype)
            gate, up = torch.randn(2, n, FFN_WIDTH).to(dtype).unbind()
            pairs = [
                (results(lambda x, w: rms_norm(x, w, 1e-5), x, weight), lambda x, w: rms_norm_plain(x, w, 1e-5)),
                (results(swiglu, gate, up), swiglu_plain),
            ]
            for (ours, plain), leaves in zip(pairs, ((x, weight), (gate, up)), strict=True):
                exact = results(plain, *(leaf.double() for leaf in leaves))
                for found, wanted in zip(ours, exact, strict=True):
                    largest = wanted.abs().max().clamp(min=1)
                    torch.testing.assert_close(found.double() / largest, wanted / largest, rtol=0, atol=tolerance)
    assert compiled.kernel("rms_forward") is None


@needs_compiler
@pytest.mark.slow
def test_heads_and_slices_go_through_the_kernels_like_rows():
    torch.manual_seed(0)
    x, weight = torch.randn(5, 3, 2 * WIDTH)[..., :WIDTH], torch.randn(WIDTH)
    with kernels(torch.float32):
        torch.testing.assert_close(rms_norm(x, weight, 1e-5), rms_norm_plain(x, weight, 1e-5))


def test_compiling_for_a_card_is_refused():
    with pytest.raises(ConfigError, match="no effect on a card"):
        compiled.refuse_compiling(torch.device("cuda"))


def test_a_missing_compiler_is_told_before_anything_else(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="no-such-compiler"), kernels(torch.float32):
        pytest.fail("the block began")


FAILING = """
import torch
from thinkling.core.errors import MachineError
from thinkling.model import compiled

try:
    with compiled.compiled_kernels(48, 80, torch.float32, torch.device("cpu")):
        print("the block began")
except MachineError as error:
    print(error)
print(compiled.kernel("rms_forward"))
"""


@needs_compiler
@pytest.mark.slow
def test_a_compiler_that_fails_is_told_and_leaves_the_eager_code(tmp_path):
    broken = tmp_path / "broken-g++"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    # A process of its own: Inductor asks for its compiler once.
    environment = {**os.environ, "CXX": str(broken), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-c", FAILING]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "could not be compiled" in done.stdout
    assert str(broken) in done.stdout
    assert done.stdout.splitlines()[-1] == "None"
