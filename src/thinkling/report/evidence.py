"""What the run folders of a report say, read once into values: scores, items, pairs, the training and its promises.

The page and the terminal summary are two views of the one `Evidence` made here. Differences are taken item by item
(the same question before and after), never from two separate shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from thinkling.core.errors import RunError
from thinkling.core.language import tr
from thinkling.core.run import Run, read_json, read_jsonl
from thinkling.core.stats import PairedComparison, paired, wilson_clustered

GROUPS = ("trained", "harder", "outside")
"""What was taught, the same a step harder, and what nobody taught: the order in which everything is shown."""
STATUSES = ("right", "wrong", "unparsable", "no_answer", "truncated", "timeout")
Item = Mapping[str, Any]
"""One line of items.jsonl."""
NEEDED = ("label", "group", "id", "question", "answer", "completion", "status")
"""What a line must have to be shown."""


@dataclass(frozen=True)
class Share:
    """So many of n, with its 95 % interval."""

    count: int
    n: int
    interval: tuple[float, float]

    @property
    def value(self) -> float:
        return self.count / self.n if self.n else 0.0


@dataclass(frozen=True)
class Score:
    """One line of an evaluation: a task, or a group of tasks pooled."""

    label: str
    group: str
    strict: Share
    """Right by the final-answer line or box: what counts."""
    flexible: Share | None
    """Right by the last number written: shown beside it, never trained on."""
    statuses: Mapping[str, int]
    baselines: Mapping[str, float]
    """What a constant or another trivial rule would score, as shares."""
    equations: Share | None
    """True ones among the equations written."""
    detectable: float | None
    """The smallest difference that n items can show, as a share."""
    tokens_mean: float | None


@dataclass(frozen=True)
class Evaluation:
    """One model measured by one protocol."""

    model: Mapping[str, Any]
    protocol: Mapping[str, Any]
    tasks: tuple[Score, ...]
    groups: tuple[Score, ...]
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Training:
    """What was planned, what was logged, and why it ended. Any of the three can be absent in a run cut short."""

    settings: Mapping[str, Any]
    plan: Mapping[str, Any]
    metrics: tuple[Mapping[str, Any], ...]
    done: Mapping[str, Any]
    environment: str


@dataclass(frozen=True)
class Row:
    """One task or group, before and after. `before` is None where nothing was measured before."""

    label: str
    group: str
    before: Score | None
    after: Score | None
    paired: PairedComparison | None
    """After minus before over the items both answered; None where there are none."""


@dataclass(frozen=True)
class Evidence:
    """Everything a report says. With one evaluation only, it is `after`, and `before` is None."""

    name: str
    after: Evaluation
    before: Evaluation | None
    training: Training | None
    groups: tuple[Row, ...]
    tasks: tuple[Row, ...]
    unpaired: int
    """Items answered in only one of the two evaluations; they count in the scores and in no difference."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings as resolved, by the name of the run folder."""
    environment: str = ""
    model_folder: str = ""
    """What a command calls the model on the page: the training's folder where there is one."""
    reference: Training | None = None
    """Another training, whose loss is drawn over this one's."""
    reference_name: str = ""


def gather(
    *,
    after: Run | None,
    before: Run | None = None,
    training: Run | None = None,
    reference: Run | None = None,
    name: str = "",
) -> Evidence:
    """Read the run folders of a report.

    Raises:
        RunError: No evaluation was given, a file of one is absent or damaged, or the reference has no loss.
    """
    last = after or before
    if last is None:
        raise RunError(
            tr("a report needs at least one evaluation"),
            where="before, after",
            fix=tr("name a run that holds an evaluation.json"),
        )
    base = _evaluation(before) if before is not None and after is not None else None
    measured = _evaluation(last)
    pairs = _pairs(base, measured)
    return Evidence(
        name=name or last.path.name,
        after=measured,
        before=base,
        training=_training(training) if training is not None else None,
        groups=_rows(base.groups if base else (), measured.groups, pairs, by="group"),
        tasks=_rows(base.tasks if base else (), measured.tasks, pairs, by="label"),
        unpaired=_unpaired(base, measured),
        settings={run.path.name: run.settings() for run in (before, training, after) if run is not None},
        model_folder=str(training.path) if training is not None else str(measured.model.get("name", "")),
        environment=next((text for run in (training, last) if run and (text := _environment(run))), ""),
        reference=_reference(reference) if reference is not None else None,
        reference_name=str(reference.path) if reference is not None else "",
    )


def pairs_of(evidence: Evidence) -> list[tuple[Item | None, Item]]:
    """(before, after) of each item of the last evaluation, in its order; before is None where it was not asked."""
    old = {_key(item): item for item in evidence.before.items} if evidence.before else {}
    return [(old.get(_key(item)), item) for item in evidence.after.items]


def is_right(item: Item) -> bool:
    """The strict reading, as the evaluation wrote it down."""
    return bool(item["status"] == "right")


def true_equations(items: Sequence[Item]) -> Share:
    """The true ones among the equations that the items' completions hold; those of one completion agree too often."""
    truths = [[bool(e["is_true"]) for e in item.get("equations", []) if e["is_true"] is not None] for item in items]
    clusters = [(sum(one), len(one)) for one in truths]
    return Share(sum(true for true, _ in clusters), sum(n for _, n in clusters), wilson_clustered(clusters))


# reading the files ------------------------------------------------------------------------------------------------


def _evaluation(run: Run) -> Evaluation:
    record = run.evaluation()
    try:
        tasks = tuple(_score(entry) for entry in record["tasks"])
        groups = tuple(_score(entry) for entry in record["groups"])
        model = record["model"]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise RunError(
            tr("evaluation.json lacks {key}, or holds no number where one should be", key=error),
            where=str(run.evaluation_file),
            fix=tr("run the evaluation again"),
        ) from error
    items = tuple(_item(line, run) for line in read_jsonl(run.items_file)) if run.items_file.exists() else ()
    return Evaluation(model, record.get("protocol", {}), tasks, _in_order(groups), items)


def _item(line: Item, run: Run) -> Item:
    missing = [key for key in NEEDED if key not in line]
    if missing:
        raise RunError(
            tr("a line of items.jsonl lacks {key}", key=missing[0]),
            where=str(run.items_file),
            fix=tr("run the evaluation again"),
        )
    return line


def _score(entry: Mapping[str, Any]) -> Score:
    n = int(entry["n"])
    flexible = entry.get("flexible")
    equations = entry.get("equations")
    return Score(
        label=str(entry.get("label") or entry["group"]),
        group=str(entry["group"]),
        strict=Share(int(entry["right"]), n, _interval(entry["interval"])),
        flexible=Share(int(flexible["right"]), n, _interval(flexible["interval"])) if flexible else None,
        statuses={str(k): int(v) for k, v in entry.get("statuses", {}).items()},
        baselines={str(k): float(v) for k, v in entry.get("baselines", {}).items()},
        equations=Share(int(equations["true"]), int(equations["n"]), _interval(equations["interval"]))
        if equations
        else None,
        detectable=entry.get("detectable_difference"),
        tokens_mean=entry.get("completion_tokens_mean"),
    )


def _interval(pair: Sequence[float]) -> tuple[float, float]:
    return float(pair[0]), float(pair[1])


def _in_order(scores: tuple[Score, ...]) -> tuple[Score, ...]:
    return tuple(sorted(scores, key=lambda score: group_rank(score.group)))


def group_rank(group: str) -> int:
    """Where a group stands on the page; unknown ones last."""
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)


def _training(run: Run) -> Training:
    return Training(
        settings=run.settings(),
        plan=read_json(run.plan_file) if run.plan_file.exists() else {},
        metrics=tuple(run.metrics()),
        done=read_json(run.done_file) if run.done_file.exists() else {},
        environment=_environment(run),
    )


def _reference(run: Run) -> Training:
    found = _training(run)
    if not any("loss/train" in line for line in found.metrics):
        raise RunError(
            tr("the reference has no loss curve: {path}", path=run.path),
            where="reference",
            fix=tr("name the folder of a training itself, such as runs/quickstart/sft"),
        )
    return found


def _environment(run: Run) -> str:
    return run.environment_file.read_text(encoding="utf-8") if run.environment_file.exists() else ""


# pairing ----------------------------------------------------------------------------------------------------------


def _key(item: Item) -> tuple[str, str]:
    return str(item["label"]), str(item["id"])


def _pairs(before: Evaluation | None, after: Evaluation) -> list[tuple[Item, Item]]:
    old = {_key(item): item for item in before.items} if before else {}
    return [(old[_key(item)], item) for item in after.items if _key(item) in old]


def _unpaired(before: Evaluation | None, after: Evaluation) -> int:
    if before is None:
        return 0
    return len({_key(item) for item in before.items} ^ {_key(item) for item in after.items})


def _rows(
    before: tuple[Score, ...], after: tuple[Score, ...], pairs: list[tuple[Item, Item]], *, by: str
) -> tuple[Row, ...]:
    """Rows in the order of the groups, then of the evaluation. `by` is the item key that says which row it is in."""
    old = {_row_name(score, by): score for score in before}
    new = {_row_name(score, by): score for score in after}
    rows = []
    for name in [*new, *(name for name in old if name not in new)]:
        mine = [(was, now) for was, now in pairs if str(now[by]) == name]
        shown = new.get(name) or old[name]
        rows.append(Row(shown.label, shown.group, old.get(name), new.get(name), _compare(mine)))
    return tuple(sorted(rows, key=lambda row: group_rank(row.group)))


def _row_name(score: Score, by: str) -> str:
    return score.group if by == "group" else score.label


def _compare(pairs: list[tuple[Item, Item]]) -> PairedComparison | None:
    if not pairs:
        return None
    return paired([is_right(was) for was, _ in pairs], [is_right(now) for _, now in pairs])
