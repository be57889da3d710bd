"""The page: one HTML file that opens offline, in light and dark, on a phone and on paper. It holds no script at all.

This file turns the evidence into what the template shows; `page.html` says in which order, `page.css` how it looks.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from thinkling.report import charts, words
from thinkling.report.choice import choose
from thinkling.report.evidence import STATUSES, Evidence, Row, Score, Training
from thinkling.report.failures import failures
from thinkling.report.glossary import GLOSSARY
from thinkling.report.outputs import marked, visible
from thinkling.report.speech import LANGUAGES, Speaker

HERE = Path(__file__).resolve().parent
TABLE_ROWS = 24
"""Steps shown in the table beside the curves: enough to read a curve off, short enough for a page."""


@dataclass(frozen=True)
class Page:
    """What a reader can choose about the page."""

    title: str
    languages: tuple[str, ...]
    """One or both of `en` and `zh`; the page opens in the first."""
    margin: float
    """A difference this small, as a share, counts as none when its interval lies inside it."""
    examples: int
    commands: Sequence[tuple[str, str]]
    """(what it does, the command): shown as what to try next."""


def render(evidence: Evidence, page: Page) -> str:
    """The whole page as HTML."""
    say = Speaker(page.languages)
    css = (HERE / "page.css").read_text(encoding="utf-8")
    shown: dict[str, Any] = {
        "page": page,
        "evidence": evidence,
        "say": say,
        "words": words,
        "charts": charts,
        "languages": {code: LANGUAGES[code] for code in page.languages},
        "css": Markup(css),  # noqa: S704 - our own file
        "css_hash": base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
        "subjects": [(row, words.verdict(row, say, page.margin)) for row in _headlines(evidence)],
        "blocks": [_block(group, evidence, say, page.margin) for group in _group_names(evidence)],
        "counted": _counted(evidence),
        "examples": choose(evidence, page.examples),
        "failures": failures(evidence.after.items),
        "figures": _figures(evidence.training),
        "promises": _promises(evidence.training),
        "settings": {name: _yaml(values) for name, values in evidence.settings.items()},
        "comparisons": sum(row.paired is not None for row in (*evidence.tasks, *evidence.groups)),
        "marked": lambda item: marked(str(item["completion"]), item.get("equations", []), say),
        "visible": visible,
        "near": words.near,
        "keep": lambda text: Markup('<span class="nowrap">{}</span>').format(text),
        "glossary": GLOSSARY,
        "percent": words.percent,
    }
    return _environment().get_template("page.html").render(shown)


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


# scores -----------------------------------------------------------------------------------------------------------


def _headlines(evidence: Evidence) -> Sequence[Row]:
    return evidence.groups or evidence.tasks


def _group_names(evidence: Evidence) -> list[str]:
    return list(dict.fromkeys(row.group for row in (*evidence.groups, *evidence.tasks)))


@dataclass(frozen=True)
class ScoreLine:
    """One row of the score table."""

    row: Row
    verdict: str
    bars: Markup
    best_baseline: tuple[str, float] | None
    is_group: bool


def _block(group: str, evidence: Evidence, say: Speaker, margin: float) -> tuple[str, list[ScoreLine]]:
    """A group's own row, then its tasks. The row of a group with one task would only say the same twice."""
    pooled = [row for row in evidence.groups if row.group == group]
    tasks = [row for row in evidence.tasks if row.group == group]
    chosen = [(row, True) for row in pooled if len(tasks) != 1] + [(row, False) for row in tasks]
    return group, [
        ScoreLine(row, words.verdict(row, say, margin), charts.score_bars(row), _best_baseline(row), is_group)
        for row, is_group in chosen
    ]


def _best_baseline(row: Row) -> tuple[str, float] | None:
    score = row.after or row.before
    if score is None or not score.baselines:
        return None
    return max(score.baselines.items(), key=lambda pair: pair[1])


def _counted(evidence: Evidence) -> dict[str, Any]:
    """The table of how answers ended: columns are (group, before or after), rows the statuses that exist."""
    columns = [
        (row.group, moment, score)
        for row in _headlines(evidence)
        for moment, score in (("before", row.before), ("after", row.after))
        if score is not None
    ]
    known = [status for status in STATUSES if any(status in score.statuses for _, _, score in columns)]
    other = sorted({status for _, _, score in columns for status in score.statuses} - set(STATUSES))
    widths = Counter(group for group, _, _ in columns)
    return {
        "columns": columns,
        "groups": list(widths.items()),
        "statuses": known + other,
        "equations": _equations(columns),
    }


def _equations(columns: Sequence[tuple[str, str, Score]]) -> list[tuple[str, str, Score, Markup]]:
    return [
        (group, moment, score, charts.share_bar(moment, score.equations.value))
        for group, moment, score in columns
        if score.equations is not None
    ]


# training ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One drawing with what it shows and what its lines are."""

    title: str
    drawing: Markup
    legend: Sequence[tuple[str, str]]
    """(CSS class, what it is); the template says it."""
    note: str = ""
    window: int = 1


def _figures(training: Training | None) -> dict[str, Any]:
    """Curves of one training, and the same as a short table."""
    metrics = training.metrics if training else ()
    steps = max((float(line["step"]) for line in metrics), default=0.0)
    drawn = [
        f for f in (_loss(metrics, steps), _accuracy(metrics, steps), *_plain_figures(metrics, steps)) if f.drawing
    ]
    names = ("loss/train", "loss/validation", "accuracy/validation", "learning_rate", "tokens/per_s")
    columns = [name for name in names if any(name in line for line in metrics)]
    lines = [line for line in _sampled(metrics) if any(name in line for name in columns)]
    unusable = sum(not math.isfinite(line[name]) for line in metrics for name in columns if name in line)
    return {"drawn": drawn, "columns": columns, "lines": lines, "unusable": unusable, "steps": len(metrics)}


def _loss(metrics: Sequence[Mapping[str, Any]], steps: float) -> Figure:
    train = _series(metrics, "loss/train")
    # A twentieth of the run: wide enough to quiet single batches, narrow enough to keep a bump.
    window = max(1, len(train) // 20) | 1
    lines = [
        charts.Line("raw", train),
        charts.Line("after", charts.smooth(train, window)),
        charts.Line("check", _series(metrics, "loss/validation"), dots=True),
    ]
    legend = [("raw", "each training step"), ("after", "running median of {window} steps"), ("check", "validation")]
    present = [pair for line, pair in zip(lines, legend, strict=True) if line.points]
    return Figure("Loss", charts.curves(lines, steps=steps), present, "nats per learnt token", window)


def _accuracy(metrics: Sequence[Mapping[str, Any]], steps: float) -> Figure:
    points = _series(metrics, "accuracy/validation")
    drawing = charts.curves([charts.Line("check", points, dots=True)], steps=steps, percent=True)
    return Figure("Right answers on validation problems", drawing, [("check", "validation")])


def _plain_figures(metrics: Sequence[Mapping[str, Any]], steps: float) -> list[Figure]:
    rate = charts.curves([charts.Line("after", _series(metrics, "learning_rate"))], steps=steps, from_zero=True)
    speed = charts.curves([charts.Line("after", _series(metrics, "tokens/per_s"))], steps=steps, from_zero=True)
    return [Figure("Learning rate", rate, []), Figure("Speed", speed, [], "tokens per second")]


def _series(metrics: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [
        (float(line["step"]), float(line[name]))
        for line in metrics
        if line.get(name) is not None and math.isfinite(line[name])
    ]


def _sampled(metrics: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The first, the last, every one with a validation, and of the others as many as fit, evenly."""
    kept = {i for i, line in enumerate(metrics) if "loss/validation" in line or "accuracy/validation" in line}
    kept |= {0, len(metrics) - 1} if metrics else set()
    room = max(0, TABLE_ROWS - len(kept))
    kept |= {round(i * (len(metrics) - 1) / (room + 1)) for i in range(1, room + 1)} if metrics else set()
    return [metrics[i] for i in sorted(kept)]


def _promises(training: Training | None) -> list[tuple[str, float | None, float | None, str]]:
    """(quantity, promised, came, unit): what the plan said beside what was."""
    if training is None:
        return []
    plan, done = training.plan, training.done
    lines = [
        ("training steps", plan.get("steps"), done.get("steps"), ""),
        ("tokens", plan.get("tokens"), done.get("tokens"), ""),
        ("training time", plan.get("minutes"), done.get("training_minutes", done.get("minutes")), "min"),
        ("peak memory", plan.get("memory_gib", {}).get("peak"), done.get("peak_memory_gib"), "GiB"),
    ]
    return [line for line in lines if line[1] is not None or line[2] is not None]


def _yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
