"""Carrying out a recipe: stage after stage, each in its own run folder; what has finished is not done again.

A finished stage is skipped where its settings are the same and nothing it is made from has run anew; otherwise its old
result is put aside, never overwritten. Where a file that its settings name has changed since, nothing is done before
the user has said what they want. However a stage ends, its done.json says how.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from thinkling.core.errors import Interrupted, OtherRunError, RunError, Terminated, TerminationRequest, ThinklingError
from thinkling.core.files import sha256_of, write_atomically, write_json
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run, read_json
from thinkling.recipes.loading import Recipe, StageSpec, plain, texts


def run(recipe: Recipe, run_dir: Path, progress: Progress, *, extend: bool = False) -> dict[str, ThinklingError]:
    """Carry out the stages in order, each in a folder of its own inside `run_dir`; finished ones are skipped.

    A stage may say with `does_without(config)` which earlier ones it can do without, "@STAGE" each. A failure of those
    is told, and the others go on; what is made from them is left out too, if it can be done without.

    Args:
        extend: A stage whose settings are those of its folder but for a longer training goes on from there. The stage
            says with `is_longer(then, now)` which settings these are, and calls `Run.extend` when it goes on.

    Returns:
        The stages that failed in this way, each with its error.

    Raises:
        RunError: A folder is in use, belongs to other settings, or to files that have changed since.
        Interrupted: Ctrl-C, or as Terminated SIGTERM.
        ThinklingError: Whatever a stage raises that nobody does without.
    """
    run_dir = Path(run_dir)
    for stage in recipe.stages:
        _refuse_other_settings(run_dir / stage.name, stage, extend)
        _refuse_other_files(run_dir / stage.name, stage)
    for stage in recipe.stages:
        progress.table(tr("Settings of {name} ({kind})", name=stage.name, kind=stage.kind), plain(stage.settings))
    text = yaml.safe_dump(recipe.resolved(), sort_keys=False, allow_unicode=True)
    write_atomically(run_dir / "recipe.yaml", text)
    earlier: dict[str, Run] = {}
    failed: dict[str, ThinklingError] = {}
    spared = _done_without(recipe)
    for number, stage in enumerate(recipe.stages, 1):
        lost = [name for name in stage.needs if name in failed]
        if lost and stage.name in spared:
            earlier[stage.name], failed[stage.name] = Run(run_dir / stage.name), failed[lost[0]]
            continue
        try:
            count = f"{number}/{len(recipe.stages)}"
            earlier[stage.name] = _stage(stage, run_dir, progress, earlier, count, extend)
        except ThinklingError as error:
            run = Run(run_dir / stage.name)
            if stage.name not in spared or not _is_told_as_failed(run):
                raise
            earlier[stage.name], failed[stage.name] = run, error
            progress.note(tr("'{name}' failed, and the others go on: {what}", name=stage.name, what=error.what))
    return failed


def _done_without(recipe: Recipe) -> set[str]:
    """The stages that a later one can do without."""
    named: set[str] = set()
    for stage in recipe.stages:
        tell = getattr(stage.module, "does_without", None)
        named |= {str(name).removeprefix("@") for name in tell(stage.config)} if tell else set()
    return named


def _is_told_as_failed(run: Run) -> bool:
    """Whether a run's own done.json says that it failed, not that it was interrupted, and not nothing at all."""
    return run.done_file.exists() and read_json(run.done_file).get("reason") == "failed"


def _stage(
    stage: StageSpec, run_dir: Path, progress: Progress, earlier: Mapping[str, Run], count: str, extend: bool
) -> Run:
    """One stage, or its result where it has finished before."""
    folder = run_dir / stage.name
    made_from = _made_from(stage, earlier)
    finished = _finished(folder, stage)
    ended = finished or (_finished_shorter(folder, stage) if extend else None)
    stale = _stale(ended, made_from)
    if finished and not stale:
        progress.note(
            tr("[{count}] {name}: finished before, skipped ({path})", count=count, name=stage.name, path=folder)
        )
        return finished
    if ended and stale:
        kept = _put_aside(folder)
        progress.note(
            tr("'{name}' was made from an older '{other}': kept as {path}", name=stage.name, other=stale[0], path=kept)
        )
    progress.note(tr("[{count}] {name} ({kind})", count=count, name=stage.name, kind=stage.kind))
    run = Run.start(folder, stage.settings, extended=extend and _is_longer(stage, Run(folder)))
    try:
        _carry_out(stage, run, progress, earlier, made_from)
    finally:
        run.close()
    return run


def _refuse_other_settings(folder: Path, stage: StageSpec, extend: bool) -> None:
    """See to it before the first stage that each folder is new, was made with these settings, or may be extended.

    Raises:
        RunError: Neither; where a longer training is all that is asked for, the mend says how to get it.
    """
    run = Run(folder)
    if not run.recipe_file.is_file() or run.settings() == stage.settings:
        return
    longer = _is_longer(stage, run)
    if longer and not extend:
        raise RunError(
            tr("'{name}' was trained for a shorter time, and is not made longer unasked", name=stage.name),
            where=str(run.recipe_file),
            fix=tr("add --extend to go on from its last checkpoint, or choose another folder with run_dir=PATH"),
        )
    if not longer:
        Run.start(folder, stage.settings).close()  # raises, and says what differs


def _is_longer(stage: StageSpec, run: Run) -> bool:
    """Whether this stage is the one of the folder with a longer training, and there is something to go on from."""
    tell = getattr(stage.module, "is_longer", None)
    return tell is not None and bool(run.checkpoints()) and bool(tell(run.settings(), stage.settings))


def _refuse_other_files(folder: Path, stage: StageSpec) -> None:
    """A finished stage whose data has changed is neither skipped as if nothing were, nor done again unasked.

    Raises:
        RunError: A file that its settings name is not the one it finished with.
    """
    finished = _finished(folder, stage) or _finished_shorter(folder, stage)
    then = read_json(finished.done_file).get("files", {}) if finished else {}
    now = _files_named(stage) if then else {}
    for file, digest in then.items():
        if now.get(file, digest) != digest:
            raise RunError(
                tr("'{name}' has finished, and {file} has changed since", name=stage.name, file=file),
                where=str(folder),
                fix=tr("choose another folder with run_dir=PATH, or delete this one to do it again"),
            )


def _files_named(stage: StageSpec) -> dict[str, str]:
    """The files that its settings name (rows, questions, a GGUF model, a program of one's own), each with its hash."""
    named = {text for text in (stage.kind, *texts(stage.settings)) if os.path.splitext(text)[1]}
    paths = {text: os.path.expanduser(text) for text in sorted(named)}
    readable = {text: path for text, path in paths.items() if os.path.isfile(path) and os.access(path, os.R_OK)}
    return {text: sha256_of(Path(path)) for text, path in readable.items()}


def _finished(folder: Path, stage: StageSpec) -> Run | None:
    """The run in `folder` where it came to its end with these very settings."""
    run = Run(folder)
    done = run.recipe_file.is_file() and run.is_finished and run.settings() == stage.settings
    return run if done else None


def _finished_shorter(folder: Path, stage: StageSpec) -> Run | None:
    """The run in `folder` where it came to its end with a shorter training than this."""
    run = Run(folder)
    return run if run.recipe_file.is_file() and run.is_finished and _is_longer(stage, run) else None


def _made_from(stage: StageSpec, earlier: Mapping[str, Run]) -> dict[str, str]:
    """The results that this stage's settings name, each with the hash of its done.json."""
    files = {name: earlier[name].done_file for name in stage.needs}
    return {name: sha256_of(file) if file.exists() else "" for name, file in files.items()}


def _stale(finished: Run | None, made_from: Mapping[str, str]) -> list[str]:
    """The sources that are no longer what they were when the stage finished."""
    then = read_json(finished.done_file).get("made_from", {}) if finished else {}
    return [name for name, digest in made_from.items() if then.get(name) != digest]


def _put_aside(folder: Path) -> Path:
    """Rename a result that is out of date to the first free NAME.old-1, NAME.old-2, …"""
    number = next(n for n in itertools.count(1) if not folder.with_name(f"{folder.name}.old-{n}").exists())
    return folder.rename(folder.with_name(f"{folder.name}.old-{number}"))


def _carry_out(
    stage: StageSpec, run: Run, progress: Progress, earlier: Mapping[str, Run], made_from: Mapping[str, str]
) -> None:
    """Run a stage and see to it that done.json says how it ended."""
    word: dict[str, Any] | None = None
    if not run.is_to_be_extended:  # else the shorter training's end stands until nothing speaks against going on
        word = read_json(run.done_file) if run.done_file.exists() else None
        run.done_file.unlink(missing_ok=True)
    files = _files_named(stage)  # as they are now: the stage may take hours
    try:
        stage.module.run(stage.config, run, progress, dict(earlier))
        assert not run.is_to_be_extended, stage.kind
    except (KeyboardInterrupt, TerminationRequest) as stop:
        _leave_word(run, "interrupted")
        kind, by = (Terminated, "SIGTERM") if isinstance(stop, TerminationRequest) else (Interrupted, "Ctrl-C")
        fix = tr("give the same command again to go on: finished stages are skipped")
        raise kind(tr("stopped by {by} in '{name}'", by=by, name=stage.name), where=str(run.path), fix=fix) from None
    except OtherRunError:
        if word is not None:  # of the run that was not gone on with
            write_json(run.done_file, word)
        raise
    except ThinklingError as error:
        _leave_word(run, "interrupted" if isinstance(error, Interrupted) else "failed", what=error.what)
        raise
    _leave_word(run, "finished")
    write_json(run.done_file, {**read_json(run.done_file), "made_from": dict(made_from), "files": files})


def _leave_word(run: Run, reason: str, **facts: Any) -> None:
    """Write done.json unless the stage has done so. On a full disk the error under way matters more than this one."""
    if not run.done_file.exists():
        with contextlib.suppress(RunError, OSError) if reason != "finished" else contextlib.nullcontext():
            run.finish(reason, **facts)
