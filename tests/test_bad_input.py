"""Bad input through the command line itself: what, where, the mend, the exit code, and nothing left in pieces."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml

import thinkling
from thinkling.cli.main import main
from thinkling.core import errors
from thinkling.core.files import clear_leftovers, sha256_of, whole_folder
from thinkling.core.run import Run

ROW = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
SETTINGS = {
    "name": "sft",
    "model": "tiny",
    "data": [{"task": "sums", "level": 1, "n": 40}],
    "max_steps": 4,
    "batch_tokens": 400,
    "generate_rows": 0,
    "validation_rows": 0,
    "save_steps": 2,
    "learning_rate": 1e-3,
}

Teller = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def _in_english_with_a_small_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path, real_peak: None
) -> None:
    monkeypatch.setenv("THINKLING_LANG", "en")
    monkeypatch.setenv("THINKLING_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    Path("train.yaml").write_text(yaml.safe_dump({"stages": [{"sft": SETTINGS}]}))


@pytest.fixture
def real_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second of products in every run would be most of these tests."""
    monkeypatch.setattr("thinkling.stages.sft.measure_peak", lambda *_: 1e12)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Teller:
    """What a command that must fail says: exactly three lines, their labels cut off."""

    def run(*arguments: str, code: int = 2) -> list[str]:
        assert main(arguments) == code
        lines = [
            line for line in capsys.readouterr().err.splitlines() if not line.startswith(("fetching", "unpacking"))
        ]
        assert [line[:7] for line in lines] == ["error: ", "where: ", "fix:   "], lines
        return [line[7:] for line in lines]

    return run


def _leftovers(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob(".*") if path.name.endswith((".partial", ".replaced"))]


def _write(name: str, *rows: object) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return f"data=[{{file: {name}}}]"


# settings ---------------------------------------------------------------------------------------------------------


def test_a_mistyped_key_within_a_list_gets_the_closest_name_there(told: Teller):
    assert told("run", "train.yaml", "data=[{fil: x}]")[2] == "did you mean 'file'?"


def test_a_stage_given_as_a_setting_is_told_apart_from_a_mistyped_one(told: Teller):
    what, _, fix = told("run", "train.yaml", "sft=3")
    assert "is a stage" in what
    assert "sft.KEY=VALUE" in fix


@pytest.mark.parametrize("value", [".inf", ".nan"])
def test_a_setting_that_is_no_finite_number_is_refused(told: Teller, value: str):
    assert "learning_rate" in told("run", "train.yaml", f"learning_rate={value}")[0]


def test_every_error_of_the_program_has_where_and_mend():
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type)}
    lacking = []
    for file in Path(thinkling.__path__[0]).rglob("*.py"):
        for call in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in kinds:
                given = {keyword.arg for keyword in call.keywords}
                lacking += [] if {"where", "fix"} <= given else [f"{file}:{call.lineno}"]
    assert lacking == []


# data -------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_told_with_its_place_and_a_near_name(told: Teller):
    _write("rows.jsonl", ROW)
    what, where, fix = told("run", "train.yaml", "data=[{file: row.jsonl}]")
    assert "row.jsonl" in what
    assert where == str(Path("row.jsonl").absolute())
    assert "'rows.jsonl'" in fix
    assert "check the path" in told("run", "train.yaml", "data=[{file: other.jsonl}]")[2]  # .jsonl alone is not near


def test_a_folder_in_place_of_a_file_is_called_a_folder(told: Teller):
    Path("rows.jsonl").mkdir()
    assert "is a folder" in told("run", "train.yaml", "data=[{file: rows.jsonl}]")[0]


def test_an_empty_file_is_named(told: Teller):
    assert told("run", "train.yaml", _write("rows.jsonl"))[1] == "rows.jsonl"


def test_a_file_whose_answers_are_all_empty_is_named(told: Teller):
    empty = {"messages": [ROW["messages"][0], {"role": "assistant", "content": " "}]}
    what, where, _ = told("run", "train.yaml", _write("rows.jsonl", empty, empty))
    assert "masked" in what
    assert "rows.jsonl, line 1" in where


def test_a_broken_line_is_named_and_nothing_was_trained(told: Teller):
    Path("rows.jsonl").write_text(json.dumps(ROW) + '\n{"a": \n')
    assert "line 2" in told("run", "train.yaml", "data=[{file: rows.jsonl}]")[1]
    assert not Path("runs/train/sft/checkpoints").exists()


def test_after_a_mistake_the_same_folder_takes_the_right_settings(told: Teller):
    told("run", "train.yaml", "data=[{file: nope.jsonl}]")
    assert main(["run", "train.yaml", _write("rows.jsonl", *[ROW] * 8), "max_steps=1"]) == 0
    assert "other settings" in told("run", "train.yaml")[0]  # and those stay


def test_data_that_changed_under_a_run_that_was_stopped_is_refused(told: Teller):
    data = _write("rows.jsonl", *[ROW] * 30)
    assert main(["run", "train.yaml", data]) == 0
    Path("runs/train/sft/done.json").unlink()
    _write("rows.jsonl", *[{"prompt": "hi", "completion": "no"}] * 30)
    assert "the data has changed since the checkpoint was made" in told("run", "train.yaml", data)[0]


# evaluation -------------------------------------------------------------------------------------------------------


def test_an_answer_that_cannot_be_read_is_found_before_the_model_is_loaded(told: Teller):
    Path("q.jsonl").write_text('{"question": "a", "answer": "5"}\n{"question": "b", "answer": "five or so"}\n')
    shutil.rmtree("tiny")
    assert told("eval", "tiny", "--task", "questions=q.jsonl")[1] == "q.jsonl, line 2"


def test_a_question_longer_than_the_context_is_named(told: Teller):
    _write("q.jsonl", {"question": "a", "answer": "5"}, {"question": "x" * 1000, "answer": "5"})
    what, where, _ = told("eval", "tiny", "--task", "questions=q.jsonl")
    assert "512" in what
    assert where == "q.jsonl, line 2"


def test_a_file_of_questions_is_asked_whole_unless_told_otherwise():
    _write("q.jsonl", *[{"question": f"What is {i} + 0?", "answer": i} for i in range(7)])
    assert main(["eval", "tiny", "--task", "questions=q.jsonl", "max_new_tokens=2", "run_dir=a"]) == 0
    assert json.loads(Path("a/evaluate/evaluation.json").read_text())["tasks"][0]["n"] == 7
    assert main(["eval", "tiny", "--task", "questions=q.jsonl", "-n", "2", "max_new_tokens=2", "run_dir=b"]) == 0
    assert json.loads(Path("b/evaluate/evaluation.json").read_text())["tasks"][0]["n"] == 2


# numbers ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def broken_model(tiny_model, tokenizer) -> str:
    from thinkling.model.folder import save_folder

    with torch.no_grad():
        tiny_model.model.layers[1].mlp.up_proj.weight[3, 4] = float("nan")
    save_folder(tiny_model, tokenizer, Path("broken"))
    return "broken"


def test_a_model_of_broken_weights_is_blamed_instead_of_the_rows(told: Teller, broken_model: str):
    what, where, fix = told("run", "train.yaml", f"model={broken_model}")
    assert "model.layers.1.mlp.up_proj.weight" in what
    assert "sums" in where
    assert "another model" in fix


def test_a_model_of_broken_weights_gets_no_score(told: Teller, broken_model: str):
    assert "not a number" in told("eval", broken_model, "--task", "sums:1", "-n", "2", "run_dir=out")[0]
    assert not Path("out/evaluate/evaluation.json").exists()


def test_weights_that_the_last_step_broke_are_not_saved(told: Teller):
    rate = ["learning_rate=1e39", "warmup_ratio=0", "lr_scheduler_type=constant", "max_steps=1"]
    assert told("run", "train.yaml", *rate)[1] == "after step 1"
    assert not Path("runs/train/sft/checkpoints").exists()


# disk -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A disk of its own, a little too small for two checkpoints."""
    disk = Path("disk")
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=900k", "none", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a disk needs rights that this process has not")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_on_a_full_disk_the_last_checkpoint_stays_and_with_more_space_the_same_command_goes_on(
    told: Teller, small_disk: Path, capsys: pytest.CaptureFixture[str]
):
    what, where, _ = told("run", "train.yaml", "run_dir=disk/run")
    assert "no space left" in what
    assert "partial" not in where
    assert [step for step, _ in Run(small_disk / "run/sft").checkpoints()] == [2]
    assert _leftovers(small_disk) == []
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    assert main(["run", "train.yaml", "run_dir=disk/run"]) == 0
    assert "going on from step 2" in capsys.readouterr().out


def test_a_read_only_disk_is_told_in_three_lines(told: Teller, small_disk: Path):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only" in told("run", "train.yaml", "run_dir=disk/run")[0]


def test_a_file_where_the_run_folder_should_be_is_told_in_three_lines(told: Teller):
    assert "cannot write" in told("run", "train.yaml", "run_dir=train.yaml")[0]


def test_a_cache_that_cannot_be_made_is_told_in_three_lines(told: Teller, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("THINKLING_HOME", "train.yaml")
    assert "THINKLING_HOME" in told("models", "pull", "smollm2-135m")[2]


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path: Path):
    target = tmp_path / "out" / "model"
    code = (
        "import sys, time; from pathlib import Path; from thinkling.core.files import whole_folder\n"
        f"with whole_folder(Path({str(target)!r})) as new: print('in', flush=True); time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        clear_leftovers(target)
        assert len(_leftovers(tmp_path)) == 1
        other.kill()
    with whole_folder(target) as new:
        (new / "a").write_text("new")
    assert _leftovers(tmp_path) == []


def test_a_folder_whose_replacement_was_killed_half_way_gets_its_name_back(tmp_path: Path):
    (tmp_path / ".model.77.replaced").mkdir()
    (tmp_path / ".model.77.replaced" / "a").write_text("old")
    clear_leftovers(tmp_path / "model")
    assert (tmp_path / "model" / "a").read_text() == "old"


# runs -------------------------------------------------------------------------------------------------------------


def test_a_run_folder_in_use_is_refused(told: Teller):
    run = Run.start(Path("runs/train/sft"), {})
    assert "another process" in told("run", "train.yaml")[0]
    run.close()


def test_settings_of_a_run_that_were_broken_by_hand_are_told(told: Teller):
    assert main(["run", "train.yaml", "max_steps=1"]) == 0
    Path("runs/train/sft/recipe.yaml").write_text("a: [")
    assert "settings of this run cannot be read" in told("run", "train.yaml", "max_steps=1")[0]


def test_a_damaged_checkpoint_gives_way_to_the_one_before_aloud(capsys: pytest.CaptureFixture[str]):
    assert main(["run", "train.yaml"]) == 0
    good = sha256_of(Path("runs/train/sft/checkpoints/step-4/model/model.safetensors"))
    Path("runs/train/sft/done.json").unlink()
    with open("runs/train/sft/checkpoints/step-4/optimizer/second.safetensors", "r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"xyz")
    assert main(["run", "train.yaml"]) == 0
    said = capsys.readouterr().out
    assert "step-4 is damaged" in said
    assert "going on from step 2" in said
    assert sha256_of(Path("runs/train/sft/checkpoints/step-4/model/model.safetensors")) == good


@pytest.mark.parametrize(
    ("then", "now"), [("full", "{method: lora, rank: 4}"), ("{method: lora, rank: 4}", "{method: lora, rank: 8}")]
)
def test_a_checkpoint_of_other_weights_that_was_copied_into_a_run_is_told(told: Teller, then: str, now: str):
    then, now = (f"tuning={tuning}" if "{" in tuning else f"tuning.method={tuning}" for tuning in (then, now))
    assert main(["run", "train.yaml", "run_dir=runs/other", then]) == 0
    shutil.copytree("runs/other/sft/checkpoints", "runs/train/sft/checkpoints")
    assert "holds other weights" in told("run", "train.yaml", now)[0]


def test_a_setting_that_differs_inside_another_is_named_alone(told: Teller):
    assert main(["run", "train.yaml"]) == 0
    assert told("run", "train.yaml", "tuning.method=lora")[0].endswith("tuning.method was 'full' and is 'lora'")


# output -----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_an_output_without_space_is_told_in_three_lines():
    command = f"{sys.executable} -m thinkling run train.yaml --dry-run > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert [line[:7] for line in done.stderr.splitlines()] == ["error: ", "where: ", "fix:   "]


# chat -------------------------------------------------------------------------------------------------------------


def test_a_question_from_a_pipe_that_is_too_long_ends_the_command(told: Teller, monkeypatch: pytest.MonkeyPatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO("x" * 1000 + "\nhello\n"))
    assert "512" in told("chat", "tiny")[0]


# signals, in a process of their own -------------------------------------------------------------------------------


def _started(folder: str, *settings: str) -> subprocess.Popen[str]:
    steps = ["max_steps=60", "save_steps=20", "data=[{task: sums, level: 1, n: 300}]", f"run_dir={folder}"]
    command = [sys.executable, "-m", "thinkling", "run", "train.yaml", *steps, *settings]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _await_step(folder: str, step: int) -> None:
    file, until = Path(folder) / "sft/metrics.jsonl", time.monotonic() + 120
    while time.monotonic() < until:
        if file.exists() and file.read_text().count("\n") >= step:
            return
        time.sleep(0.01)
    raise AssertionError(f"step {step} was not reached")


@pytest.mark.slow
def test_interrupted_and_killed_runs_go_on_by_the_same_command_to_the_very_same_weights():
    whole = _started("whole")
    stopped = _started("stopped")
    _await_step("stopped", 25)
    stopped.send_signal(signal.SIGINT)
    said = stopped.communicate()[1]
    assert stopped.returncode == 130
    assert [line[:7] for line in said.splitlines()] == ["error: ", "where: ", "fix:   "]
    assert whole.communicate()[1] == ""

    stopped = _started("stopped")
    _await_step("stopped", 45)
    stopped.kill()
    stopped.communicate()
    goes_on = _started("stopped")
    out, said = goes_on.communicate()
    assert (goes_on.returncode, said) == (0, "")
    assert "going on from step" in out
    weights = "sft/checkpoints/step-60/model/model.safetensors"
    assert sha256_of(Path("stopped") / weights) == sha256_of(Path("whole") / weights)
    assert _leftovers(Path("stopped")) == []


def test_sigterm_saves_says_how_to_go_on_and_ends_with_143():
    stopped = _started("stopped", "max_steps=5000")
    _await_step("stopped", 1)
    stopped.terminate()
    said = stopped.communicate()[1]
    assert stopped.returncode == 143
    assert [line[:7] for line in said.splitlines()] == ["error: ", "where: ", "fix:   "]
    assert "same command" in said
    run = Run(Path("stopped/sft"))
    [(step, _)] = run.checkpoints()[-1:]
    assert json.loads(run.done_file.read_text()) | {"minutes": 0} == {
        "reason": "interrupted", "step": step, "steps": 5000, "minutes": 0,
    }  # fmt: skip


def test_a_reader_that_leaves_does_not_end_the_training():
    with _started("whole", "max_steps=20") as training:
        assert training.stdout is not None
        assert training.stderr is not None
        training.stdout.close()
        assert (training.stderr.read(), training.wait()) == ("", 0)
    assert Run(Path("whole/sft")).is_finished


@pytest.mark.parametrize("stream", ["<&-", ">&-", "2>&-"])
def test_a_closed_standard_stream_is_no_fault(stream: str):
    command = f"{sys.executable} -m thinkling --version {stream}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_while_the_program_is_loaded_is_one_line_and_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import builtins

    from thinkling.__main__ import main as process

    real = builtins.__import__

    def interrupted(name: str, *rest: object) -> object:
        if name == "thinkling.cli.main":
            raise KeyboardInterrupt
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as ended:
        process()
    assert ended.value.code == 130
    assert capsys.readouterr().err == "\nstopped by Ctrl-C\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_sigterm_and_a_closed_terminal_outside_of_a_training_are_one_line_and_143(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
):
    from thinkling import recipes

    before = signal.getsignal(number)
    monkeypatch.setattr(recipes, "load", lambda *_: os.kill(os.getpid(), number))
    assert main(["run", "train.yaml"]) == 143
    assert capsys.readouterr().err == "stopped by SIGTERM\n"
    assert signal.getsignal(number) is before


TAKE_TERMINAL = """
import fcntl, os, signal, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
if sys.argv[1] == "ignore":
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-m", "thinkling", "run", "train.yaml", *sys.argv[2:]])
"""


def _in_a_terminal(folder: str, steps: int, *, hang_up: str) -> tuple[subprocess.Popen[bytes], int]:
    """A training in a terminal of its own, and that terminal's other end. `hang_up`: "heed" or "ignore" it."""
    terminal, inner = pty.openpty()
    settings = [f"max_steps={steps}", f"save_steps={steps}", f"run_dir={folder}"]
    command = [sys.executable, "-c", TAKE_TERMINAL, hang_up, *settings]
    process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, start_new_session=True)
    os.close(inner)
    return process, terminal


def _await_step_reading(folder: str, terminal: int, step: int) -> None:
    """As `_await_step`; a terminal that nobody reads would fill up."""
    file, until = Path(folder) / "sft/metrics.jsonl", time.monotonic() + 120
    os.set_blocking(terminal, False)
    while not file.exists() or file.read_text().count("\n") < step:
        assert time.monotonic() < until, f"step {step} was not reached"
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 2**16)
        time.sleep(0.01)


@pytest.mark.slow
def test_a_training_whose_terminal_is_closed_saves_before_it_ends():
    process, terminal = _in_a_terminal("closed", 2000, hang_up="heed")
    _await_step_reading("closed", terminal, 5)
    os.close(terminal)
    assert process.wait(120) in (1, 143)  # whether or not the last line could be said
    done = json.loads(Path("closed/sft/done.json").read_text())
    assert done["reason"] == "interrupted"
    assert [step for step, _ in Run(Path("closed/sft")).checkpoints()] == [done["step"]]


@pytest.mark.slow
def test_a_training_that_ignores_the_closing_of_its_terminal_goes_on_without_a_word():
    process, terminal = _in_a_terminal("ignored", 100, hang_up="ignore")
    _await_step_reading("ignored", terminal, 5)
    os.close(terminal)
    assert process.wait(120) in (0, 1)
    assert json.loads(Path("ignored/sft/done.json").read_text())["reason"] == "finished"
