"""A training that is slower than it should be, told while it runs, with the cause where it can be named.

What it should reach is the share of the machine's peak that the plan counts with (plan.REACHED), or what the run itself
has reached before, if that is more. Below half of it something is wrong that somebody can mend: the batches come late,
validations or checkpoints eat the time, another program has the cores, the micro-batches are too small for the
machine. Each cause is told once. Nothing that is trained depends on it, so that it travels in no checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from thinkling.core.language import tr
from thinkling.engine.plan import REACHED

EVENT = "slow"
FACTOR = 2.0
"""Slower by this than expected is told."""
WINDOW_S, WINDOW_STEPS = 60.0, 10
"""A judgement is over at least so much."""
FIRST_STEPS = 2
"""Not judged: libraries choose and write their kernels in them."""
OTHERS_CORES = 0.2
"""Taken by other programs: enough to stall threads that wait for each other."""
SMALL_TOKENS = {"cpu": 256, "cuda": 2048}
"""Of a micro-batch: with fewer, products are narrow and the fixed costs of a step dominate. Seen so on two cores; for a
card the usual rule that a product wants some thousand rows."""
SHARES = ("data", "evaluation", "checkpoint")
"""Phases of a step's clock in which nothing is trained."""


@dataclass(frozen=True)
class Slowness:
    """What is told. Shares are of the measured peak, or of the time."""

    steps: int
    reached: float
    expected: float
    cause: str
    """data, evaluation, checkpoint, others, small, or unknown."""
    amount: float
    """Of the cause: a share of the time, cores, or tokens."""

    def record(self) -> dict[str, Any]:
        """For events.jsonl."""
        return asdict(self)

    def in_words(self, step: int) -> str:
        """The line in the log."""
        cause, mend = self._cause_and_mend()
        said = (
            "step {step}: slower than it should be: the last {n} steps reached {reached} of the machine's peak, "
            "{expected} was to be expected; {cause}; what helps: {mend}"
        )
        shares = {"reached": f"{self.reached:.1%}", "expected": f"{self.expected:.0%}"}
        return tr(said, step=step, n=self.steps, cause=cause, mend=mend, **shares)

    def _cause_and_mend(self) -> tuple[str, str]:
        share = f"{self.amount:.0%}"
        if self.cause == "data":
            return (
                tr("{share} of the time it waits for batches", share=share),
                tr("a faster disk for the data, or nothing else that reads from it"),
            )
        if self.cause == "evaluation":
            return (
                tr("{share} of the time goes into validations", share=share),
                tr("a larger eval_steps, or fewer held-out rows"),
            )
        if self.cause == "checkpoint":
            return tr("{share} of the time goes into checkpoints", share=share), tr("a larger save_steps")
        if self.cause == "others":
            return (
                tr("other programs take {n} of {cores} cores", n=f"{self.amount:.1f}", cores=os.cpu_count()),
                tr("ending them: threads that wait for each other lose far more than the share that is taken"),
            )
        if self.cause == "small":
            return (
                tr("a micro-batch has {n} tokens", n=round(self.amount)),
                tr("a larger batch_size, or a larger micro_batch_tokens where the memory allows it"),
            )
        return (
            tr("forward, backward and update themselves are slow"),
            tr("`thinkling doctor`, which measures the machine: it may be throttled, or shared with others"),
        )


def busy_seconds() -> tuple[float, float]:
    """Seconds that all cores were busy since the machine's start, and those that this process was."""
    all_of_it, own = psutil.cpu_times(), psutil.Process().cpu_times()
    busy = sum(all_of_it) - all_of_it.idle - sum(getattr(all_of_it, name, 0.0) for name in ("iowait", "guest"))
    return busy - getattr(all_of_it, "guest_nice", 0.0), sum(own[:4])


@dataclass
class SpeedWatch:
    """Adds up steps, and judges them a window at a time.

    Args:
        peak_flops: FLOP/s that the machine reaches at the products of this model.
        device: "cpu" or "cuda".
        busy: Seconds of all cores and of this process, ever rising.
    """

    peak_flops: float
    device: str
    busy: Callable[[], tuple[float, float]] = busy_seconds
    _left_out: int = 0
    _best: float = 0.0
    _told: set[str] = field(default_factory=set)
    _sums: dict[str, float] = field(default_factory=dict)
    _busy_before: tuple[float, float] = (0.0, 0.0)

    def computed(self, flops: float, seconds: float, micro_batches: int, tokens: int) -> None:
        """What the step in hand computed: its FLOPs, the seconds of forward, backward and update, its tokens."""
        new = {"flops": flops, "training": seconds, "micro_batches": micro_batches, "tokens": tokens}
        self._add(new)

    def after_step(self, split: Mapping[str, float]) -> Slowness | None:
        """The step is over.

        Args:
            split: time/PHASE_s and time/step_s, as of `StepClock.split`.
        """
        if self._left_out < FIRST_STEPS:
            self._left_out += 1
            self._begin()
            return None
        self._add({name: split[f"time/{name}_s"] for name in (*SHARES, "step")} | {"steps": 1})
        if self._sums["steps"] < WINDOW_STEPS or self._sums["step"] < WINDOW_S:
            return None
        found = self._judge()
        self._begin()
        return found

    def _add(self, new: Mapping[str, float]) -> None:
        for name, value in new.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def _begin(self) -> None:
        self._sums, self._busy_before = {}, self.busy()

    def _judge(self) -> Slowness | None:
        sums = self._sums
        reached = sums["flops"] / sums["step"] / self.peak_flops
        expected = max(REACHED[self.device], self._best)
        self._best = max(self._best, reached)
        if reached * FACTOR >= expected:
            return None
        cause, amount = self._cause(expected)
        if cause in self._told:
            return None
        self._told.add(cause)
        return Slowness(round(sums["steps"]), reached, expected, cause, amount)

    def _cause(self, expected: float) -> tuple[str, float]:
        """Its name and its size: what nothing is trained in, where training itself is fast enough."""
        sums = self._sums
        if sums["flops"] / sums["training"] / self.peak_flops * FACTOR >= expected:
            largest = max(SHARES, key=lambda name: sums[name])
            return largest, sums[largest] / sums["step"]
        (busy, own), (busy_before, own_before) = self.busy(), self._busy_before
        others = ((busy - busy_before) - (own - own_before)) / sums["step"]
        if others > OTHERS_CORES:
            return "others", others
        tokens = sums["tokens"] / sums["micro_batches"]
        return ("small", tokens) if tokens < SMALL_TOKENS[self.device] else ("unknown", 0.0)
