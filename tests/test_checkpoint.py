"""Checkpoints on disk: what a kill left is gone when the run goes on, and what was whole before it is found again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from thinkling.core import files
from thinkling.core.errors import NumericsError
from thinkling.core.files import digest_of, seal
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.engine import checkpoint
from thinkling.engine.gradient import refuse_broken_weights
from thinkling.model.weights import save_hashed, save_tensors


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run with a whole checkpoint of step 2."""
    run = Run(tmp_path)
    run.checkpoint_dir(2).mkdir(parents=True)
    (run.checkpoint_dir(2) / "state.json").write_text('{"step": 2}')
    seal(run.checkpoint_dir(2))
    return run


def test_half_a_checkpoint_of_a_step_never_saved_again_is_gone_once_the_run_goes_on(run: Run):
    left = run.checkpoints_dir / ".step-3.99.partial"
    (left / "model").mkdir(parents=True)
    found = checkpoint.newest(run, Silent())
    assert found is not None
    assert found.step == 2
    assert not left.exists()


def test_a_checkpoint_whose_replacement_was_killed_half_way_is_found_again(run: Run):
    run.checkpoint_dir(2).rename(run.checkpoints_dir / ".step-2.99.replaced")
    found = checkpoint.newest(run, Silent())
    assert found is not None
    assert found.step == 2


def test_a_run_without_checkpoints_has_no_newest(tmp_path: Path):
    assert checkpoint.newest(Run(tmp_path), Silent()) is None


@pytest.mark.parametrize("block", [1, 100, files.BLOCK_BYTES])
def test_tensors_hashed_while_written_are_the_librarys_file_to_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int
):
    monkeypatch.setattr(files, "BLOCK_BYTES", block)
    square = torch.arange(12.0).view(3, 4)
    tensors = {
        "second/b": square,
        "master/a": torch.tensor(1.5),
        'wei"ß/名': torch.zeros(0, 2),
        "first/c": torch.ones(5),
    }
    save_tensors(tensors, tmp_path / "library")
    digest = save_hashed(tensors, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()
    assert digest == digest_of(tmp_path / "ours")


def test_a_tensor_that_is_seen_across_is_written_as_it_reads(tmp_path: Path):
    across = torch.arange(12.0).view(3, 4).T
    save_tensors({"a": across.contiguous()}, tmp_path / "library")
    save_hashed({"a": across}, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "library").read_bytes()


@given(
    n=st.integers(1, 3000),
    place=st.floats(0, 1, exclude_max=True),
    value=st.sampled_from([float("nan"), float("inf"), -float("inf")]),
    dtype=st.sampled_from([torch.bfloat16, torch.float32]),
)
def test_one_weight_that_is_not_a_number_is_found_wherever_it_stands(
    n: int, place: float, value: float, dtype: torch.dtype
):
    model = nn.Linear(n, 1, bias=False, dtype=dtype)
    refuse_broken_weights(model, "before")
    with torch.no_grad():
        model.weight[0, int(place * n)] = value
    with pytest.raises(NumericsError, match="not a number"):
        refuse_broken_weights(model, "after")
