"""The run folder: one owner, one set of settings, and records that survive a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from thinkling.core.errors import RunError
from thinkling.core.run import Run, read_json, read_jsonl

SETTINGS = {"name": "a", "learning_rate": 1e-05, "tasks": ["sums"], "说": "你好"}


def test_a_run_knows_its_settings_after_it_is_closed(tmp_path: Path):
    run = Run.start(tmp_path / "a", SETTINGS)
    run.close()
    assert Run.open(tmp_path / "a").settings() == SETTINGS


def test_the_same_settings_continue_a_run_and_others_are_refused_by_name(tmp_path: Path):
    run = Run.start(tmp_path / "a", SETTINGS)
    run.log(1, {"loss/train": 1.0})
    run.close()
    Run.start(tmp_path / "a", SETTINGS).close()
    with pytest.raises(RunError, match=r"learning_rate was 1e-05 and is 0\.1"):
        Run.start(tmp_path / "a", {**SETTINGS, "learning_rate": 0.1})
    Run.start(tmp_path / "a", SETTINGS).close()  # the refused one holds nothing


def test_two_processes_cannot_write_one_run(tmp_path: Path):
    run = Run.start(tmp_path / "a", SETTINGS)
    other = (
        "import sys; from pathlib import Path; from thinkling.core.errors import RunError\n"
        "from thinkling.core.run import Run\n"
        f"try: Run.start(Path({str(tmp_path / 'a')!r}), {SETTINGS!r})\n"
        "except RunError as error: print(error.what); sys.exit(2)\n"
    )
    refused = subprocess.run([sys.executable, "-c", other], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout.strip()) == (2, "another process is writing the run 'a'")
    run.close()
    assert subprocess.run([sys.executable, "-c", other], check=False).returncode == 0


def test_a_folder_without_a_recipe_is_no_run(tmp_path: Path):
    with pytest.raises(RunError, match="is not a run folder"):
        Run.open(tmp_path)


def test_metrics_are_read_back_in_order(tmp_path: Path):
    run = Run.start(tmp_path / "a", SETTINGS)
    for step in (1, 2):
        run.log(step, {"loss/train": 1 / step})
    assert run.metrics() == [{"step": 1, "loss/train": 1.0}, {"step": 2, "loss/train": 0.5}]
    run.close()


def test_a_last_line_cut_off_by_a_kill_is_left_out_and_other_damage_is_not(tmp_path: Path):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    assert list(read_jsonl(file)) == [{"step": 1}, {"step": 2}]
    file.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(RunError, match="line 2"):
        list(read_jsonl(file))


def test_a_resumed_run_forgets_what_it_will_write_again(tmp_path: Path):
    run = Run.start(tmp_path / "a", SETTINGS)
    for step in (1, 2, 3):
        run.log(step, {"x": 0.0})
        run.sample({"step": step, "text": "中"})
    run.keep_steps_up_to(2)
    assert [line["step"] for line in run.metrics()] == [1, 2]
    assert [line["step"] for line in run.samples()] == [1, 2]
    run.close()


def test_only_the_planned_end_counts_as_finished(tmp_path: Path):
    run = Run.start(tmp_path / "a", SETTINGS)
    assert not run.is_finished
    run.finish("interrupted")
    assert not run.is_finished
    run.finish("finished", minutes=1.5)
    assert run.is_finished
    assert read_json(run.done_file) == {"reason": "finished", "minutes": 1.5}
    run.close()


def test_checkpoints_come_in_the_order_of_their_steps(tmp_path: Path):
    run = Run(tmp_path)
    for step in (10, 9, 100):
        run.checkpoint_dir(step).mkdir(parents=True)
    (run.checkpoints_dir / ".step-200.1.partial").mkdir()
    assert [step for step, _ in run.checkpoints()] == [9, 10, 100]


def test_a_damaged_record_is_an_error_with_its_path(tmp_path: Path):
    file = tmp_path / "done.json"
    file.write_text("{")
    with pytest.raises(RunError) as caught:
        read_json(file)
    assert caught.value.where == str(file)


def test_the_environment_says_what_it_ran_on(tmp_path: Path):
    run = Run.start(tmp_path / "a", SETTINGS)
    assert "python: 3." in run.environment_file.read_text()
    run.close()


def test_a_run_that_goes_on_keeps_word_of_every_machine_it_ran_on(tmp_path: Path):
    for _ in range(2):
        Run.start(tmp_path / "a", SETTINGS).close()
    assert Run(tmp_path / "a").environment_file.read_text().count("python: 3.") == 2


def test_the_minutes_of_a_run_are_those_of_all_its_sessions(tmp_path: Path):
    for reason, total in (("interrupted", 1.5), ("failed", 3.0), ("finished", 4.5), ("finished", 1.5)):
        run = Run.start(tmp_path / "a", SETTINGS)
        run.finish(reason, minutes=1.5)
        run.close()
        assert read_json(run.done_file)["minutes"] == total  # one that had finished begins anew
    run = Run.start(tmp_path / "b", SETTINGS)
    run.finish("interrupted", step=3)
    assert 0 < read_json(run.done_file)["minutes"] < 1
    run.close()


def test_items_are_written_whole(tmp_path: Path):
    run = Run(tmp_path)
    run.items([{"question": "几？", "status": "right"}] * 2)
    assert [json.loads(line)["question"] for line in run.items_file.read_text(encoding="utf-8").splitlines()] == [
        "几？"
    ] * 2


def test_a_record_cut_inside_a_character_is_left_out_like_any_other_cut_record(tmp_path):
    file = tmp_path / "metrics.jsonl"
    whole = json.dumps({"step": 1, "text": "好"}, ensure_ascii=False).encode() + b"\n"
    file.write_bytes(whole + whole[:-4])
    assert [record["step"] for record in read_jsonl(file)] == [1]


def test_all_that_is_kept_of_earlier_steps_survives_a_power_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run, synced = Run(tmp_path), []
    run.log(1, {"loss/train": 1.0})
    run.sample({"step": 1})
    run.event(1, "spike", {})
    monkeypatch.setattr("thinkling.core.run.sync_file", lambda file: synced.append(file.name))
    run.sync()
    assert synced == ["metrics.jsonl", "samples.jsonl", "events.jsonl"]
