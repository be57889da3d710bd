"""Overfitting, told while it happens: the loss on held-out rows rises from its lowest while that of training falls.

Every look is at the same rows, so two looks are compared row by row: how hard a row is cancels out, and a rise can be
told from chance with few of them. It counts where the lower limit of the mean difference (Student, one-sided) lies
above zero, and where it is large enough to matter. Looks are many, and the lowest is picked out of them, which chance
favours; so the risk is shared among all pairs of looks that the run can compare (Bonferroni's inequality): whatever the
number of looks, a run whose loss never truly rises is called overfitting with a probability of RISK at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from thinkling.core.language import tr
from thinkling.core.stats import mean_interval
from thinkling.engine.gradient import RowLosses

EVENT = "overfitting"
RISK = 0.05
"""Of an alarm in a whole run without a true rise."""
FEWEST_ROWS = 16
"""The mean of fewer differences, most of them small and some large, is not yet distributed as the limit supposes."""
SMALLEST_RISE = 0.01
"""Of the lowest loss: less is of no consequence, however sure it is."""


@dataclass(frozen=True)
class Overfitting:
    """A rise that is told. Losses are nats a token."""

    best_step: int
    """Of the lowest loss so far."""
    rise: float
    at_least: float
    """The lower limit."""
    rows: int
    train_then: float
    """The mean training loss between the best look and the one before it."""
    train_now: float
    """The same between this look and the one before it."""

    def record(self) -> dict[str, Any]:
        """For events.jsonl."""
        return asdict(self)

    def in_words(self, step: int, mends: Sequence[str]) -> str:
        """The line in the log."""
        said = (
            "step {step}: overfitting: the validation loss has risen by {rise} since step {best} (at least {least}, "
            "{n} rows) while the training loss fell from {then} to {now}; what helps: {mends}"
        )
        losses = {"rise": self.rise, "least": self.at_least, "then": self.train_then, "now": self.train_now}
        shown = {name: f"{loss:.3g}" for name, loss in losses.items()}
        return tr(said, step=step, best=self.best_step, n=self.rows, mends=tr(", ").join(mends), **shown)


@dataclass(frozen=True)
class _Best:
    step: int
    nats: list[float]
    """(R,) of each row."""
    loss: float
    train: float


class OverfitWatch:
    """The lowest look of a training, and the training losses since the last look.

    Args:
        looks: Validations that the training can make after its first step.
    """

    def __init__(self, looks: int) -> None:
        self._pairs = max(1, looks * (looks - 1) // 2)
        self._best: _Best | None = None
        self._told = False
        self._total, self._steps = 0.0, 0

    def trained(self, loss: float) -> None:
        """A step was carried out whose batch had this loss."""
        self._total += loss
        self._steps += 1

    @property
    def is_due(self) -> bool:
        """Whether a step was carried out since the last look."""
        return self._steps > 0

    def judge(self, rows: RowLosses) -> Overfitting | None:
        """The rise that this look shows, or None: where there is none, where it may be chance, where it was told."""
        best, n = self._best, len(rows.nats)
        if best is None or self._told or not self.is_due or n < FEWEST_ROWS:
            return None
        train, rise = self._total / self._steps, rows.mean - best.loss
        if not (train < best.train and SMALLEST_RISE * best.loss < rise < math.inf):
            return None
        scale = n / float(rows.weights.sum())
        differences = [(now - then) * scale for now, then in zip(rows.nats.tolist(), best.nats, strict=True)]
        at_least, _ = mean_interval(differences, 1 - 2 * RISK / self._pairs)  # their mean is the rise
        return Overfitting(best.step, rise, at_least, n, best.train, train) if at_least > 0 else None

    def accept(self, step: int, rows: RowLosses, told: Overfitting | None) -> None:
        """Remember a look, and what `judge` said of it. A second time changes nothing."""
        self._told = self._told or told is not None
        if self.is_due and rows.mean < (self._best.loss if self._best else math.inf):
            self._best, self._told = _Best(step, rows.nats.tolist(), rows.mean, self._total / self._steps), False
        self._total, self._steps = 0.0, 0

    def state(self) -> dict[str, Any]:
        return {
            "best": asdict(self._best) if self._best else None,
            "told": self._told,
            "total": self._total,
            "steps": self._steps,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._best = _Best(**state["best"]) if state["best"] else None
        self._told, self._total, self._steps = state["told"], state["total"], state["steps"]


def mends(config: Any, rank: int | None) -> list[str]:
    """What helps against overfitting and is not set yet.

    Args:
        config: A TrainerConfig.
        rank: Of an adapter that has one.
    """
    named = [f"{name}=loss/validation" for name in ("early_stopping", "save_best") if getattr(config, name) is None]
    lower = [tr("a rank below {rank}", rank=rank)] if rank is not None and rank > 1 else []
    return [tr("fewer epochs"), *named, *lower]
