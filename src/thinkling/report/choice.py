"""Which outputs stand side by side on the page: chosen by a rule that is printed beside them, never by hand.

The rule: the groups share the places (trained, harder, outside; the first ones get what does not divide). Inside a
group the fates take turns: gained, lost, still wrong, kept right. Inside a fate it is the turn of the task that was
shown least so far in the group, with the first of its problems not yet shown. Places that a group cannot fill go to
the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from thinkling.report.evidence import Evidence, Item, group_rank, is_right, pairs_of

FATES = ("gained", "lost", "still wrong", "kept right", "wrong", "right")
"""What happened to one problem; the last two where there is no before."""


@dataclass(frozen=True)
class Example:
    """One problem with what the model wrote before (None where nothing was measured) and after."""

    before: Item | None
    after: Item
    fate: str


def choose(evidence: Evidence, places: int = 10) -> list[Example]:
    """Up to `places` examples by the rule of this file, group by group."""
    examples = [Example(was, now, fate(was, now)) for was, now in pairs_of(evidence)]
    groups = sorted(dict.fromkeys(str(example.after["group"]) for example in examples), key=group_rank)
    queues = [list(_in_turns([e for e in examples if e.after["group"] == group])) for group in groups]
    quotas = _quotas([len(queue) for queue in queues], places)
    return [example for queue, quota in zip(queues, quotas, strict=True) for example in queue[:quota]]


def fate(was: Item | None, now: Item) -> str:
    """What happened to the answer of one problem."""
    if was is None:
        return "right" if is_right(now) else "wrong"
    return {(False, True): "gained", (True, False): "lost", (False, False): "still wrong", (True, True): "kept right"}[
        is_right(was), is_right(now)
    ]


def _in_turns(examples: list[Example]) -> Iterator[Example]:
    """All examples of a group in the order in which they get a place."""
    waiting = {name: [example for example in examples if example.fate == name] for name in FATES}
    shown: Counter[str] = Counter()
    while any(waiting.values()):
        for same in waiting.values():
            if same:
                chosen = min(same, key=lambda example: shown[_label(example)])  # the first of several: min is stable
                same.remove(chosen)
                shown[_label(chosen)] += 1
                yield chosen


def _label(example: Example) -> str:
    return str(example.after["label"])


def _quotas(sizes: list[int], places: int) -> list[int]:
    """One place at a time, round the groups that still have something to show."""
    quotas = [0] * len(sizes)
    for _ in range(min(places, sum(sizes))):
        open_groups = [i for i, size in enumerate(sizes) if quotas[i] < size]
        quotas[min(open_groups, key=lambda i: (quotas[i], i))] += 1
    return quotas
