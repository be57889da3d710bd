"""Compiled kernels: the plain functions and their gradients, in place only where a training asked for them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from thinkling.core.errors import ConfigError
from thinkling.model import compiled
from thinkling.model.compiled import compiled_kernels, compiler

PROGRAM = Path(__file__).parent / "compiling.py"
needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C++ compiler on this machine")


def lived(home: Path, *dtypes: str, **environment: str) -> dict[str, Any]:
    """What tests/compiling.py prints, with a cache of its own."""
    inherited = {name: value for name, value in os.environ.items() if name != compiled.CACHE}
    environment = {**inherited, "THINKLING_HOME": str(home), **environment}
    command = [sys.executable, str(PROGRAM), *dtypes]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@needs_compiler
@pytest.mark.slow
def test_compiled_kernels_agree_with_the_plain_functions_and_their_gradients(tmp_path):
    tolerances = {"float32": 1e-5, "bfloat16": 2e-2}
    seen = lived(tmp_path, *tolerances)
    if "cannot" in seen:
        pytest.skip(f"Inductor compiles nothing on this machine: {seen['cannot']}")
    for dtype, found in seen.items():
        assert "failed" not in found, found["failed"]
        assert found["used"]
        assert not found["left"]
        assert len(found["errors"]) == 2 * 4 + 1
        beyond = {name: error for name, error in found["errors"].items() if max(error) > tolerances[dtype]}
        assert beyond == {}, dtype
    assert any((tmp_path / "compiled").rglob("*.so"))  # kept where models are, not where anybody may write


def test_compiling_for_a_card_is_refused():
    with pytest.raises(ConfigError, match="no effect on a card"):
        compiled.refuse_compiling(torch.device("cuda"))


def test_a_missing_compiler_is_told_before_anything_else(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with (
        pytest.raises(ConfigError, match="no-such-compiler"),
        compiled_kernels(48, 80, torch.float32, torch.device("cpu")),
    ):
        pytest.fail("the block began")


@needs_compiler
@pytest.mark.slow
def test_a_compiler_that_fails_is_told_and_leaves_the_eager_code(tmp_path):
    broken = tmp_path / "broken-g++"
    broken.write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    found = lived(tmp_path / "home", "float32", CXX=str(broken))["float32"]
    assert "could not be compiled" in found["failed"]
    assert str(broken) in found["failed"]
    assert str(tmp_path / "home" / "compiled") in found["failed"]
    assert not found["left"]
