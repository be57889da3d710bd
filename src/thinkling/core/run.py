"""The run folder: one execution of a stage, and the only thing stages hand to each other on disk.

This file owns every name in it; nobody else builds a path by hand.

    recipe.yaml      the settings as resolved, every default written out
    plan.json        what was promised: rows, tokens, steps, memory by phase, minutes
    metrics.jsonl    one line a step; names have a place and a unit
    samples.jsonl    completions seen during training
    events.jsonl     what went otherwise than planned: spikes, overfitting, micro-batches halved, a run made longer
    best.json        the step of the best validation so far, where one is kept
    items.jsonl      one line per evaluated item
    evaluation.json  scores with n, intervals and baselines
    comparison.json  one row a training, and the same as a table in comparison.md
    checkpoints/     step-N/, whole or absent
    logs/            the same curves for other programs: logs/tensorboard
    environment.txt  what it ran on, a paragraph for each time it was started
    report.html      one page, opens offline
    done.json        why it ended
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from thinkling.core.errors import ConfigError, RunError
from thinkling.core.files import make_folder, sync_file, sync_folder, write_atomically, write_json, writing
from thinkling.core.language import tr
from thinkling.core.shelf import closest

LOCK = ".lock"
EXTENDED = "extended"
"""The event of a run that went on under settings of a longer one."""


class Run:
    """One run folder. `Run.start` writes to it, `Run.open` only reads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._began: float | None = None
        self._earlier_minutes = 0.0
        self._longer: tuple[str, str] | None = None
        """What differs in the settings of a longer training, and their text, until `extend` takes them."""

    @classmethod
    def start(cls, path: Path, settings: Mapping[str, Any], *, extended: bool = False) -> Run:
        """Make the folder, or continue one with the same settings, and hold it for this process alone.

        A folder in which nothing came about, because a setting was wrong, takes other settings.

        Args:
            extended: Bear other settings, too, which `extend` takes: a training is to be made longer.

        Raises:
            RunError: Another process is writing it, it belongs to other settings, or it cannot be written.
        """
        run = cls(Path(path))
        with writing(run.path):
            make_folder(run.path)
            run._hold()
        text = yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True)
        if run.holds_results and run.recipe_file.exists() and run.recipe_file.read_text(encoding="utf-8") != text:
            difference = _first_difference(run.settings(), dict(settings))
            if not extended:
                run.close()
                raise RunError(
                    tr(
                        "the run '{name}' was made with other settings: {difference}",
                        name=run.path.name,
                        difference=difference,
                    ),
                    where=str(run.recipe_file),
                    fix=tr("choose another name with run_dir=PATH, or delete the folder"),
                )
            run._longer = difference, text
        run._began, run._earlier_minutes = time.monotonic(), run._minutes_so_far(extended)
        if run._longer is None:
            run._write_settings(text)
        return run

    def extend(self) -> None:
        """Take the settings of the longer training that this run was started for; nothing where it was not.

        To be called when nothing speaks against it any more: until then the folder is what it was, with its end.
        Killed at any moment, it is the shorter run, to be extended again, or the longer one, to be gone on with.
        """
        if self._longer is None:
            return
        difference, text = self._longer
        self.event(0, EXTENDED, {"settings": difference})  # of step 0: no way back to an earlier step forgets it
        self.sync()
        self.done_file.unlink(missing_ok=True)  # before the settings, or the longer run would have ended already
        self._write_settings(text)
        self._longer = None

    def _write_settings(self, text: str) -> None:
        write_atomically(self.recipe_file, text)
        before = self.environment_file.read_text(encoding="utf-8") + "\n" if self.environment_file.exists() else ""
        write_atomically(self.environment_file, before + environment())

    @classmethod
    def open(cls, path: Path) -> Run:
        """A run that exists, for reading.

        Raises:
            RunError: This is not a run folder.
        """
        run = cls(Path(path))
        if not run.recipe_file.is_file():
            raise RunError(
                tr("{path} is not a run folder", path=path),
                where=str(run.recipe_file),
                fix=tr("name a folder under runs/"),
            )
        return run

    # names ------------------------------------------------------------------------------------------------------

    @property
    def recipe_file(self) -> Path:
        return self.path / "recipe.yaml"

    @property
    def plan_file(self) -> Path:
        return self.path / "plan.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def samples_file(self) -> Path:
        return self.path / "samples.jsonl"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def best_file(self) -> Path:
        return self.path / "best.json"

    @property
    def items_file(self) -> Path:
        return self.path / "items.jsonl"

    @property
    def evaluation_file(self) -> Path:
        return self.path / "evaluation.json"

    @property
    def comparison_file(self) -> Path:
        return self.path / "comparison.json"

    @property
    def comparison_page(self) -> Path:
        return self.path / "comparison.md"

    @property
    def report_file(self) -> Path:
        return self.path / "report.html"

    @property
    def done_file(self) -> Path:
        return self.path / "done.json"

    @property
    def environment_file(self) -> Path:
        return self.path / "environment.txt"

    @property
    def checkpoints_dir(self) -> Path:
        return self.path / "checkpoints"

    def checkpoint_dir(self, step: int) -> Path:
        return self.checkpoints_dir / f"step-{step}"

    def logger_dir(self, name: str) -> Path:
        return self.path / "logs" / name

    # writing ----------------------------------------------------------------------------------------------------

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line of metrics.jsonl."""
        self._append(self.metrics_file, {"step": step, **metrics})

    def sample(self, record: Mapping[str, Any]) -> None:
        """One line of samples.jsonl."""
        self._append(self.samples_file, record)

    def event(self, step: int, event: str, facts: Mapping[str, Any]) -> None:
        """One line of events.jsonl."""
        self._append(self.events_file, {"step": step, "event": event, **facts})

    def write_best(self, look: Mapping[str, float] | None) -> None:
        """best.json: the best validation so far, with its step; None where there was none yet."""
        if look is not None:
            write_json(self.best_file, dict(look))
        else:
            self.best_file.unlink(missing_ok=True)

    def items(self, records: list[dict[str, Any]]) -> None:
        """The whole of items.jsonl."""
        write_atomically(self.items_file, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records))

    def write_evaluation(self, evaluation: Mapping[str, Any]) -> None:
        """evaluation.json, whole."""
        write_json(self.evaluation_file, evaluation)

    def write_comparison(self, comparison: Mapping[str, Any], page: str) -> None:
        """comparison.json, and the same as a table."""
        write_json(self.comparison_file, comparison)
        write_atomically(self.comparison_page, page)

    def write_plan(self, plan: Mapping[str, Any]) -> None:
        """plan.json: what is promised before the first step."""
        write_json(self.plan_file, plan)

    def keep_steps_up_to(self, step: int, *, events: Collection[str] | None = None) -> None:
        """Forget metrics, samples and events later than `step`: a resumed run writes them again, the same.

        Args:
            events: The kinds of events to forget; None: all.
        """

        def stays(line: Mapping[str, Any]) -> bool:
            spared = events is not None and "event" in line and line["event"] not in events
            return line.get("step", 0) <= step or spared

        for file in (self.metrics_file, self.samples_file, self.events_file):
            if file.exists():
                kept = [line for line in read_jsonl(file) if stays(line)]
                write_atomically(file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept))

    def sync(self) -> None:
        """Make metrics, samples and events so far survive a power cut: before a checkpoint that a run may go on from.

        Raises:
            RunError: As `core.files.writing`.
        """
        for file in (self.metrics_file, self.samples_file, self.events_file):
            if file.exists():
                with writing(file):
                    sync_file(file)
        with writing(self.path):
            sync_folder(self.path)

    def finish(self, reason: str, **facts: Any) -> None:
        """Write done.json: why the run ended, and how many minutes it took.

        Earlier sessions that left word, because they were interrupted or failed, are counted in.

        Args:
            facts: `minutes` among them are those of this session; without them, the time since the run was started.
        """
        if self._began is not None:
            session = facts.get("minutes", (time.monotonic() - self._began) / 60)
            facts = {**facts, "minutes": self._earlier_minutes + session}
        write_json(self.done_file, {"reason": reason, **facts})

    def _minutes_so_far(self, extended: bool) -> float:
        """Of the sessions before this one, where the run goes on."""
        word = read_json(self.done_file) if self.done_file.exists() else {}
        begins_anew = word.get("reason") == "finished" and not extended
        return 0.0 if begins_anew else float(word.get("minutes", 0.0))

    @property
    def is_finished(self) -> bool:
        """Whether it came to its planned end (and was not interrupted or stopped by an error)."""
        return self.done_file.exists() and read_json(self.done_file).get("reason") == "finished"

    @property
    def is_to_be_extended(self) -> bool:
        """Whether it was started for a longer training and `extend` is yet to come."""
        return self._longer is not None

    @property
    def is_extended(self) -> bool:
        """Whether it was made longer after it had begun, or is about to be."""
        return self.is_to_be_extended or any(event["event"] == EXTENDED for event in self.events())

    @property
    def holds_results(self) -> bool:
        """Whether anything is here beside settings, plan and the word of a run that did not finish."""
        before_results = (self.recipe_file, self.environment_file, self.plan_file, self.done_file, self.path / LOCK)
        return self.is_finished or any(
            file not in before_results and not file.name.endswith(".partial") for file in self.path.iterdir()
        )

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _append(self, file: Path, record: Mapping[str, Any]) -> None:
        with writing(file), open(file, "a", encoding="utf-8") as handle:
            handle.write(json.dumps(record, ensure_ascii=False) + "\n")

    def _hold(self) -> None:
        self._lock = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            self._lock = None
            raise RunError(
                tr("another process is writing the run '{name}'", name=self.path.name),
                where=str(self.path),
                fix=tr("wait for it, or choose another name with run_dir=PATH"),
            ) from None

    # reading ----------------------------------------------------------------------------------------------------

    def settings(self) -> dict[str, Any]:
        """recipe.yaml as plain values."""
        try:
            return dict(yaml.safe_load(self.recipe_file.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            raise RunError(
                tr("the settings of this run cannot be read: {why}", why=str(error).splitlines()[0]),
                where=str(self.recipe_file),
                fix=tr("mend the file, or delete the folder"),
            ) from error

    def plan(self) -> dict[str, Any]:
        return read_json(self.plan_file)

    def evaluation(self) -> dict[str, Any]:
        return read_json(self.evaluation_file)

    def metrics(self) -> list[dict[str, Any]]:
        return list(read_jsonl(self.metrics_file)) if self.metrics_file.exists() else []

    def events(self) -> list[dict[str, Any]]:
        return list(read_jsonl(self.events_file)) if self.events_file.exists() else []

    def samples(self) -> list[dict[str, Any]]:
        return list(read_jsonl(self.samples_file)) if self.samples_file.exists() else []

    def checkpoints(self) -> list[tuple[int, Path]]:
        """(step, folder), oldest first."""
        found = self.checkpoints_dir.glob("step-*") if self.checkpoints_dir.exists() else []
        return sorted((int(p.name.removeprefix("step-")), p) for p in found if p.name.removeprefix("step-").isdigit())


def referred(name: str, earlier: Mapping[str, Run]) -> str:
    """`@sft` is the folder of the earlier stage sft of the same recipe; any other name stays as it is.

    Raises:
        ConfigError: No earlier stage has that name.
    """
    if not name.startswith("@"):
        return name
    if name[1:] not in earlier:
        raise ConfigError(
            tr("'{name}' names no earlier stage", name=name),
            where=tr("earlier stages: {names}", names=", ".join(earlier) or "-"),
            fix=closest(name[1:], list(earlier)) or tr("name a stage that stands above this one"),
        )
    return str(earlier[name[1:]].path)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON file of ours.

    Raises:
        RunError: Absent or damaged.
    """
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise RunError(
            tr("cannot read {file}: {error}", file=file.name, error=error),
            where=str(file),
            fix=tr("delete the file and run the stage again"),
        ) from error


def read_jsonl(file: Path) -> Iterator[dict[str, Any]]:
    """Records of a file of ours. A last line cut off by a kill is left out; any other damage is an error."""
    lines = file.read_bytes().split(b"\n")  # a kill may have cut the last one inside a character
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            yield json.loads(line)
        except ValueError as error:
            if number == len(lines):
                return
            raise RunError(
                tr("line {number} of {file} is damaged", number=number, file=file.name),
                where=str(file),
                fix=tr("delete the line"),
            ) from error


def environment() -> str:
    """What this process runs on, for environment.txt. Reads torch's version only where torch is loaded."""
    torch = sys.modules.get("torch")
    facts = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": getattr(torch, "__version__", "not loaded"),
        "threads": torch.get_num_threads() if torch else "not loaded",
        "cpu_capability": torch.backends.cpu.get_cpu_capability() if torch else "not loaded",
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    return "".join(f"{key}: {value}\n" for key, value in facts.items())


def _first_difference(old: Mapping[str, Any], new: Mapping[str, Any], inside: str = "") -> str:
    for key in [*new, *old]:
        then, now = old.get(key), new.get(key)
        if then != now and isinstance(then, Mapping) and isinstance(now, Mapping):
            return _first_difference(then, now, f"{inside}{key}.")
        if then != now:
            return tr("{key} was {old} and is {new}", key=f"{inside}{key}", old=repr(then), new=repr(now))
    return tr("the order of its keys")
