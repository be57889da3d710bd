"""What is still wrong: where the failures are, of what kind, and which operators are miscalculated.

The kinds exclude each other, so that they add up: an answer that never came is not a wrong one, and a wrong answer
whose equations are all true is a wrong plan, not a wrong calculation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from thinkling.core.stats import wilson
from thinkling.report.evidence import Item, Share, group_rank, is_right, true_equations

KINDS = ("false equation", "wrong plan", "no equation", "no_answer", "unparsable", "truncated", "timeout")
OPERATORS = {"+": "+", "-": "−", "−": "−", "*": "×", "×": "×", "x": "×", "X": "×", "·": "×", "/": "÷", "÷": "÷"}
# An operator stands between two operands; a sign before the first number is none.
BETWEEN = re.compile(r"(?<=[\d)%])\s*([-+−*×xX·/÷])\s*(?=[\d(.$\-−])")


@dataclass(frozen=True)
class Part:
    """So many failures (or false equations) out of those tried here."""

    label: str
    failures: Share


@dataclass(frozen=True)
class Failures:
    """The failures of one evaluation, cut three ways; what was tried and never failed has its part too."""

    total: int
    n: int
    by_task: tuple[Part, ...]
    by_kind: tuple[Part, ...]
    """All kinds, each out of all items."""
    by_operator: tuple[Part, ...]
    """False equations by operator, out of all equations written with it."""


def failures(items: Sequence[Item]) -> Failures:
    """Cut the failures by task and level, by kind, and the false equations by operator."""
    failed = [item for item in items if not is_right(item)]
    kinds = Counter(kind(item) for item in failed)
    return Failures(
        total=len(failed),
        n=len(items),
        by_task=_by_task(items, failed),
        by_kind=tuple(_part(name, kinds[name], len(items)) for name in dict.fromkeys((*KINDS, *kinds))),
        by_operator=_by_operator(items),
    )


def kind(item: Item) -> str:
    """Why one failed item failed, as far as its text shows."""
    if item["status"] != "wrong":
        return str(item["status"])
    equations = item.get("equations", [])
    if not equations:
        return "no equation"
    return "false equation" if any(equation["is_true"] is False for equation in equations) else "wrong plan"


def operator(text: str) -> str:
    """The operator of a written equation, or 'several'.

    Example:
        >>> operator("-4 + 10 = 6"), operator("2 * 3 * 4 = 24"), operator("3 + 4 * 5 = 23")
        ('+', '×', 'several')
    """
    found = {OPERATORS[sign] for sign in BETWEEN.findall(text.lstrip("<").split("=")[0])}
    return found.pop() if len(found) == 1 else "several" if found else "none"


def _by_task(items: Sequence[Item], failed: Sequence[Item]) -> tuple[Part, ...]:
    asked = Counter(str(item["label"]) for item in items)
    groups = {str(item["label"]): str(item["group"]) for item in items}
    wrong = Counter(str(item["label"]) for item in failed)
    order = sorted(asked, key=lambda label: (group_rank(groups[label]), -wrong[label] / asked[label]))
    return tuple(_part(label, wrong[label], asked[label]) for label in order)


def _part(label: str, failures: int, n: int) -> Part:
    return Part(label, Share(failures, n, wilson(failures, n)))


def _by_operator(items: Sequence[Item]) -> tuple[Part, ...]:
    """False equations of those written with an operator, where any was."""
    by_item = [[(operator(e["text"]), e) for e in item.get("equations", [])] for item in items]
    parts = []
    for sign in (*"+−×÷", "several", "none"):
        true = true_equations([{"equations": [e for its, e in written if its == sign]} for written in by_item])
        low, high = true.interval
        parts.append(Part(sign, Share(true.n - true.count, true.n, (1 - high, 1 - low))))
    return tuple(part for part in parts if part.failures.n)
