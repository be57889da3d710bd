"""Steps whose loss or gradient leaps: what counts as a spike, and what is done about it before any weight has moved.

A step is held against the accepted steps before it by a robust z-score (Iglewicz & Hoaglin 1993): how far it lies above
their median, in units of 1.4826 times the median distance from it. That history travels in the checkpoint.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field, model_validator

from thinkling.core.config import Config
from thinkling.core.errors import NumericsError
from thinkling.core.language import tr

SEEN_BEFORE_JUDGING = 8
"""Accepted steps before a spike can be told: a median distance of fewer is chance."""
SMALLEST_SPREAD = 0.05
"""Of the median: steps that differ by a few per cent are no spikes, however alike those before them were."""
MOST_IN_A_ROW = 5
"""Batches skipped for one step, or returns to one checkpoint: after that it is not the rows."""


class SpikeConfig(Config):
    """What to do about a step whose loss or gradient norm leaps."""

    spike_action: Literal["none", "stop", "skip", "rollback"] = "none"
    """stop: end the run before the update. skip: leave out the batch. rollback: go back to the last checkpoint, and
    leave out every batch since."""
    spike_factor: float = Field(10.0, gt=1)
    """How many times the usual spread above the median of the steps before is a spike."""
    spike_window: int = Field(64, ge=SEEN_BEFORE_JUDGING)
    """Steps that it is held against."""

    @model_validator(mode="after")
    def _spike_settings_have_an_effect(self) -> SpikeConfig:
        fields = SpikeConfig.model_fields
        idle = [n for n in ("spike_factor", "spike_window") if getattr(self, n) != fields[n].default]
        if idle and self.spike_action == "none":
            raise ValueError(tr("{settings} has no effect with spike_action: none", settings=", ".join(idle)))
        return self


def robust_score(value: float, before: Sequence[float]) -> float:
    """How far `value` lies above the median of `before`, in robust standard deviations; no number is infinitely far.

    Example:
        >>> round(robust_score(13.0, [9.0, 10.0, 11.0]), 3)  # 3 above 10, in units of 1.4826 * 1
        2.023
    """
    if not math.isfinite(value):
        return math.inf
    middle = statistics.median(before)
    spread = 1.4826 * statistics.median(abs(x - middle) for x in before)
    return (value - middle) / max(spread, SMALLEST_SPREAD * abs(middle), 1e-12)


@dataclass(frozen=True)
class Spike:
    """A step that leapt: nothing has been updated with it."""

    what: str
    """loss, or gradient norm."""
    value: float
    usual: float
    """The median of the steps before; not a number where there were too few."""
    score: float
    rows: tuple[str, ...]

    def in_words(self, step: int) -> str:
        facts = {"step": step, "what": tr(self.what), "value": f"{self.value:.4g}", "usual": f"{self.usual:.4g}"}
        return tr("step {step}: the {what} leapt to {value} (usual: {usual})", **facts)

    def record(self) -> dict[str, Any]:
        """For events.jsonl; JSON has no infinity."""
        numbers = {"value": self.value, "usual": self.usual, "score": self.score}
        told = {name: x if math.isfinite(x) else str(x) for name, x in numbers.items()}
        return {"what": self.what, **told, "rows": list(self.rows)}


@dataclass
class SpikeWatch:
    """The accepted steps of late."""

    config: SpikeConfig
    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)

    @property
    def is_on(self) -> bool:
        return self.config.spike_action != "none"

    def judge(self, loss: float, norm: float, rows: Sequence[str]) -> Spike | None:
        """The spike in this step, the worse one of loss and gradient norm, or None."""
        found = [self._judge("loss", loss, self.losses, rows), self._judge("gradient norm", norm, self.norms, rows)]
        return max((spike for spike in found if spike), key=lambda spike: spike.score, default=None)

    def _judge(self, what: str, value: float, before: Sequence[float], rows: Sequence[str]) -> Spike | None:
        enough = len(before) >= SEEN_BEFORE_JUDGING
        if not self.is_on or (math.isfinite(value) and not enough):
            return None
        score = robust_score(value, before) if enough else math.inf
        usual = statistics.median(before) if enough else math.nan
        return Spike(what, value, usual, score, tuple(rows)) if score > self.config.spike_factor else None

    def accept(self, loss: float, norm: float) -> None:
        """Remember a step that was carried out."""
        window = self.config.spike_window
        self.losses, self.norms = [*self.losses, loss][-window:], [*self.norms, norm][-window:]

    def state(self) -> dict[str, Any]:
        return {"losses": self.losses, "norms": self.norms}

    def restore(self, state: dict[str, Any]) -> None:
        self.losses, self.norms = list(state["losses"]), list(state["norms"])


def stopped_by(spike: Spike, step: int) -> NumericsError:
    """The end of a run with spike_action: stop."""
    return NumericsError(
        spike.in_words(step),
        where=tr("rows {rows}", rows=", ".join(spike.rows)),
        fix=tr("look at these rows with `thinkling data show`; or a new run with spike_action=skip or rollback"),
    )


def hopeless(spike: Spike, step: int) -> NumericsError:
    """When skipping and going back no longer help."""
    return NumericsError(
        tr("{spike}, for the {n}th time in a row", spike=spike.in_words(step), n=MOST_IN_A_ROW + 1),
        where=tr("rows {rows}", rows=", ".join(spike.rows)),
        fix=tr("it is not these rows: lower learning_rate, or raise spike_factor; the last good checkpoint is kept"),
    )
