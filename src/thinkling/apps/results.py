"""What a recipe has found, as tables for a terminal: scores with n and interval, and the model before beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thinkling.core.language import tr
from thinkling.core.run import Run

Table = tuple[str, dict[str, str]]


def results(folders: Sequence[Path]) -> list[Table]:
    """A table for each evaluation in these run folders, in order."""
    runs = [Run(folder) for folder in folders]
    return [scores(run.path.name, run.evaluation()) for run in runs if run.evaluation_file.is_file()]


def scores(name: str, evaluation: Mapping[str, Any]) -> Table:
    """One row a task, and one a group where there is more than one task in it."""
    versus = evaluation.get("versus") or {}
    changes = {entry["label"]: entry for kind in ("tasks", "groups") for entry in versus.get(kind, [])}
    several = [g for g in evaluation["groups"] if sum(t["group"] == g["label"] for t in evaluation["tasks"]) > 1]
    rows = {entry["label"]: _row(entry, changes.get(entry["label"])) for entry in evaluation["tasks"]}
    rows |= {tr("all of: {group}", group=g["label"]): _row(g, changes.get(g["label"])) for g in several}
    return tr("{name}: right answers of {model}", name=name, model=evaluation["model"]["name"]), rows


def _row(entry: Mapping[str, Any], change: Mapping[str, Any] | None) -> str:
    low, high = entry["interval"]
    parts = [f"{entry['right']}/{entry['n']}", f"{entry['score']:.0%} [{low:.0%}, {high:.0%}]"]
    unread = {tr(k): n for k, n in entry["statuses"].items() if n and k not in ("right", "wrong")}
    if unread:
        parts.append(", ".join(f"{n} {status}" for status, n in unread.items()))
    guesses = entry.get("baselines") or {}
    if guesses:
        best = max(guesses, key=lambda name: guesses[name])
        parts.append(tr("guessing {guess} gets {x}", guess=best, x=f"{guesses[best]:.0%}"))
    if change:
        parts.append(tr("before {x}: {words}", x=f"{change['before']:.0%}", words=change["words"]))
    return "  ".join(parts)


def next_steps(stages: Sequence[Any], folder: Path) -> dict[str, str]:
    """What to type next, from the page's own list, where the recipe (its stages in order) ends in a report."""
    from thinkling.report.evidence import gather
    from thinkling.report.words import next_commands

    report = next((stage.config for stage in stages if stage.kind == "report"), None)
    if report is None:
        return {}
    named = {key: getattr(report, key) for key in ("before", "after", "training")}
    runs = {key: Run(folder / name.removeprefix("@")) if name else None for key, name in named.items()}
    evidence = gather(before=runs["before"], after=runs["after"], training=runs["training"])
    return dict(next_commands(evidence, folder))
