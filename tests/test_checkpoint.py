"""Checkpoints on disk: what a kill left is gone when the run goes on, and what was whole before it is found again."""

from __future__ import annotations

from pathlib import Path

import pytest

from thinkling.core.files import seal
from thinkling.core.progress import Silent
from thinkling.core.run import Run
from thinkling.engine import checkpoint


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
