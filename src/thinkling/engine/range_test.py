"""The learning-rate range test: a short training with a rising rate, to see where learning begins and where it breaks.

Smith 2017 (arXiv:1506.01186), section 3.3. The weights it leaves in memory are of no use and are never saved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from thinkling.core.errors import NumericsError
from thinkling.core.progress import Progress
from thinkling.engine.gradient import accumulate
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.settings import TrainerConfig
from thinkling.engine.trainer import BatchSource
from thinkling.losses import Loss
from thinkling.model.decoder import Decoder

SMOOTHING = 0.8
"""How much of the running mean of the loss stays at each step."""
BROKEN = 1.5
"""A smoothed loss of this many times its lowest ends the test."""
LEARNT = 0.02
"""Share of the loss that has to go for there to be any advice."""
AWAY_FROM_THE_EDGE = 10.0
"""The advice is the rate of the lowest loss divided by this: beyond that rate the loss rises again."""


@dataclass(frozen=True)
class Probe:
    """One step at one rate."""

    step: int
    learning_rate: float
    loss: float
    """Nats a token, of this step's batch before its update."""
    smoothed: float
    """Its running mean, corrected for its beginning."""


@dataclass(frozen=True)
class Advice:
    """What a range test says."""

    learning_rate: float | None
    """To begin with; None where nothing was learnt at any rate."""
    steepest: float | None
    """Where the loss fell fastest."""
    lowest: float | None
    """Where it was lowest."""
    broke: bool
    """Whether the loss rose again within the range; if not, `lowest` may lie beyond it."""

    def facts(self) -> dict[str, Any]:
        """For done.json."""
        return {
            "learning_rate": self.learning_rate,
            "steepest": self.steepest,
            "lowest": self.lowest,
            "broke": self.broke,
        }


def rising_rates(low: float, high: float, steps: int) -> list[float]:
    """`steps` rates from `low` to `high`, each the same multiple of the one before."""
    return [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]


def range_test(
    model: Decoder,
    batches: BatchSource,
    loss: Loss,
    config: TrainerConfig,
    *,
    low: float,
    high: float,
    steps: int,
    progress: Progress,
) -> list[Probe]:
    """Train for at most `steps` updates with rates from `low` to `high`; ends where the loss breaks.

    Args:
        model: Changed in place, and of no use after it.
        config: Its AdamW, clipping and micro-batches are used; its learning rate and schedule are not.

    Raises:
        NumericsError: The loss is not a number before the first update.
    """
    optimizer = MasterAdamW(
        model,
        betas=(config.adam_beta1, config.adam_beta2),
        epsilon=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
    probes: list[Probe] = []
    progress.start("find-lr", steps, "steps")
    try:
        for (step, rate), batch in zip(enumerate(rising_rates(low, high, steps), 1), batches, strict=False):
            try:
                with model.in_step(step):
                    means, _ = accumulate(model, batch, loss, optimizer, config)
            except NumericsError:
                if not probes:  # no update yet: it is not the rate
                    raise
                break  # what a range test is there to find
            probes.append(_probe(probes, step, rate, sum(loss.coefficients[t] * mean for t, mean in means.items())))
            progress.advance(step, **{"learning_rate": rate, "loss/train": probes[-1].loss})
            norm = optimizer.clip(config.max_grad_norm)
            if not math.isfinite(norm) or is_broken(probes):
                break
            optimizer.step(rate)
    finally:
        optimizer.close()
    progress.finish()
    return probes


def _probe(before: Sequence[Probe], step: int, rate: float, loss: float) -> Probe:
    known = 1 - SMOOTHING ** (step - 1)
    total = before[-1].smoothed * known if before else 0.0
    return Probe(step, rate, loss, (SMOOTHING * total + (1 - SMOOTHING) * loss) / (1 - SMOOTHING**step))


def is_broken(probes: Sequence[Probe]) -> bool:
    """Whether the loss has left its lowest point for good."""
    return probes[-1].smoothed > BROKEN * min(probe.smoothed for probe in probes)


def advise(probes: Sequence[Probe], steps: int) -> Advice:
    """What the curve says: a tenth of the rate of the lowest loss, where anything was learnt.

    Args:
        steps: Those that were asked for; fewer probes than that means that the loss broke.
    """
    broke = len(probes) < steps or (bool(probes) and is_broken(probes))
    if len(probes) < 3:
        return Advice(None, None, None, broke)
    losses = [probe.smoothed for probe in probes]
    lowest = min(range(len(losses)), key=losses.__getitem__)
    if losses[lowest] > (1 - LEARNT) * losses[0] or lowest < 1:
        return Advice(None, None, None, broke)
    steepest = min(range(1, lowest + 1), key=lambda i: losses[i] - losses[i - 1])
    best, fastest = probes[lowest].learning_rate, probes[steepest].learning_rate
    return Advice(best / AWAY_FROM_THE_EDGE, fastest, best, broke or lowest < len(probes) - 1)
