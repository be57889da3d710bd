"""What is still wrong: where the failures are, of what kind, and which operators are miscalculated.

The kinds exclude each other, so that they add up: an answer that never came is not a wrong one, and a wrong answer
whose equations are all true is a wrong plan, not a wrong calculation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from thinkling.report.evidence import Item, group_rank, is_right

KINDS = ("false equation", "wrong plan", "no equation", "no_answer", "unparsable", "truncated", "timeout")
OPERATORS = {"+": "+", "-": "−", "−": "−", "*": "×", "×": "×", "x": "×", "X": "×", "·": "×", "/": "÷", "÷": "÷"}
# An operator stands between two operands; a sign before the first number is none.
BETWEEN = re.compile(r"(?<=[\d)%])\s*([-+−*×xX·/÷])\s*(?=[\d(.$\-−])")


@dataclass(frozen=True)
class Part:
    """So many of all the failures (or false equations) are here, out of n tried here."""

    label: str
    failures: int
    n: int
    share: float
    """Of all failures."""


@dataclass(frozen=True)
class Failures:
    """The failures of one evaluation, cut three ways."""

    total: int
    n: int
    by_task: tuple[Part, ...]
    by_kind: tuple[tuple[str, int, float], ...]
    """(kind, failures, share of all failures), those that occur."""
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
        by_kind=tuple((name, kinds[name], kinds[name] / len(failed)) for name in KINDS if kinds[name]),
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
    order = sorted(wrong, key=lambda label: (group_rank(groups[label]), -wrong[label], label))
    return tuple(Part(label, wrong[label], asked[label], wrong[label] / len(failed)) for label in order)


def _by_operator(items: Sequence[Item]) -> tuple[Part, ...]:
    written = [equation for item in items for equation in item.get("equations", []) if equation["is_true"] is not None]
    tried = Counter(operator(equation["text"]) for equation in written)
    false = Counter(operator(equation["text"]) for equation in written if equation["is_true"] is False)
    total = sum(false.values())
    order = [*"+−×÷", "several", "none"]
    return tuple(Part(sign, false[sign], tried[sign], false[sign] / total) for sign in order if false[sign])
