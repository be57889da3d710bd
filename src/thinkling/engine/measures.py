"""What a training tells of its steps beside the loss: where the time goes, whose the loss is, how far the weights move.

Everything here is read off what the step computes anyway: no second forward pass, and no change of any number that is
trained with. docs/metrics.md says what each figure means.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinkling.core.device import forget_process_peak, process_memory_gib, process_peak_memory_gib, return_freed_memory
from thinkling.data.batch import Batch
from thinkling.data.kinds import COLUMN, KINDS, PARTS
from thinkling.model.config import ModelConfig
from thinkling.model.head import HeadOutput

PHASES = ("data", "forward", "backward", "optimizer", "evaluation", "checkpoint", "other")
SAMPLE = 2**14
"""Weights looked at in each tensor for the size of an update: 4 million of a model of 135M, copied in milliseconds."""
SHAPES_SECONDS = 0.8
"""For the products of a model's own shapes, all together."""
HEAP_GROWTH = 1.3
"""Over resident memory after a step that began in a compact heap. Measured: without a limit a run grows from 3.5 to 7
GB in 80 steps; at 1.15 over the first step, a LoRA gave a gigabyte back in every second step, to fault it in again."""


class StepClock:
    """Time of one step by phase. At any moment exactly one phase runs, so that the phases add up to the step.

    On a card the borders between phases are marks in its queue, which it times as it passes them: only who asks for a
    time waits. A phase begins there when all that was queued before is done.
    """

    def __init__(self, device: torch.device) -> None:
        self._mark: Callable[[], float | torch.cuda.Event] = _event if device.type == "cuda" else time.monotonic
        self._begun: list[tuple[str, float | torch.cuda.Event]] = [("other", self._mark())]
        self._added = dict.fromkeys(PHASES, 0.0)
        self._has_begun = False

    def enter(self, phase: str) -> None:
        """Whatever ran is over, and this phase begins."""
        assert phase in PHASES, phase
        self._begun.append((phase, self._mark()))

    def _seconds(self) -> dict[str, float]:
        """Of each phase up to the beginning of the one that runs now."""
        for (phase, begun), (_, ended) in itertools.pairwise(self._begun):
            self._added[phase] += _between(begun, ended)
        self._begun = self._begun[-1:]
        return self._added

    @property
    def training_s(self) -> float:
        """Of forward, backward and update so far in this step."""
        seconds = self._seconds()
        return sum(seconds[phase] for phase in ("forward", "backward", "optimizer"))

    def split(self) -> dict[str, float]:
        """time/PHASE_s of the step so far, and time/step_s, their sum; nothing where no step has begun."""
        self.enter(self._begun[-1][0])
        seconds = self._seconds()
        phases = {f"time/{phase}_s": spent for phase, spent in seconds.items()}
        return {**phases, "time/step_s": sum(seconds.values())} if self._has_begun else {}

    def begin_step(self) -> None:
        """What went before is over; a step begins with its data."""
        self._begun = [("data", self._mark())]
        self._added, self._has_begun = dict.fromkeys(PHASES, 0.0), True


def _event() -> torch.cuda.Event:
    """A mark at the end of what the card has queued."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(begun: float | torch.cuda.Event, ended: float | torch.cuda.Event) -> float:
    """Seconds from one mark to the next; waits until the card has passed both."""
    if isinstance(begun, float) or isinstance(ended, float):
        assert isinstance(begun, float), begun
        assert isinstance(ended, float), ended
        return ended - begun
    ended.synchronize()
    return float(begun.elapsed_time(ended)) / 1000


# whose the loss is ----------------------------------------------------------------------------------------------------


@dataclass
class LossByKind:
    """The loss of one step's counted tokens, apart by their kind: sums over all micro-batches."""

    _said: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)
    """Of each micro-batch the kinds and weights of its counted tokens, on the host, and what was said of them: (M,)."""

    def add(self, out: HeadOutput, supervised: Batch) -> None:
        """Remember what the head said of the M counted tokens of a micro-batch, which lie on the host; without a column
        of kinds, nothing."""
        kinds = supervised.columns.get(COLUMN)
        if kinds is not None:
            self._said.append((kinds, supervised.loss_weights, out.logprobs.detach()))

    def totals(self) -> tuple[Tensor, Tensor]:
        """Nats, weighted as the loss is, and the weights: (parts, kinds) each. Here a card is asked what it found."""
        sums, weights = torch.zeros(2, len(PARTS) * len(KINDS), dtype=torch.float64).unbind()
        for kinds, counted, logprobs in self._said:
            sums.index_add_(0, kinds, -logprobs.double().cpu() * counted.double())
            weights.index_add_(0, kinds, counted.double())
        return sums.view(len(PARTS), len(KINDS)), weights.view(len(PARTS), len(KINDS))

    def metrics(self) -> dict[str, float]:
        """loss/KIND and loss/PART in nats per counted token, of those that occurred."""
        sums, weights = self.totals()
        by_kind = zip(KINDS, sums.sum(0).tolist(), weights.sum(0).tolist(), strict=True)
        by_part = zip(PARTS, sums.sum(1).tolist(), weights.sum(1).tolist(), strict=True)
        return {f"loss/{name}": total / count for name, total, count in (*by_kind, *by_part) if name and count > 0}


# how far the weights move ---------------------------------------------------------------------------------------------


class UpdateRatio:
    """Norm of an update over the norm of the weights: about 1e-3 is usual, 1e-1 is too much, 1e-6 trains nothing.

    Estimated from the same evenly spread weights of each tensor before and after, at most SAMPLE of each: a copy of all
    would be a second model in memory.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._before = [self._some(tensor).clone() for tensor in tensors]

    @staticmethod
    def _some(tensor: Tensor) -> Tensor:
        # An odd stride: an even one would stay in the same few columns of a matrix.
        stride = max(1, tensor.numel() // SAMPLE) | 1
        return tensor.detach().flatten()[::stride]

    def after(self) -> float:
        """Call when the weights have moved. 0 where all weights are 0."""
        pairs = list(zip(self._tensors, self._before, strict=True))
        each = ((self._some(now).double() - old.double(), old.double()) for now, old in pairs)
        told = torch.stack([part.square().sum() for pair in each for part in pair]).tolist()  # a card is asked once
        shares = [now.numel() / old.numel() for now, old in pairs]
        moved, squares = (sum(s * x for s, x in zip(shares, told[i::2], strict=True)) for i in (0, 1))
        return float(moved / squares) ** 0.5 if squares else 0.0


# what is held in memory -----------------------------------------------------------------------------------------------


def memory_gib(device: torch.device) -> float:
    """What this process holds now: on the GPU where the model is there, else resident memory."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device) / 2**30
    return process_memory_gib()


def peak_memory_gib(device: torch.device) -> float:
    """The most it has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return process_peak_memory_gib()


def forget_peak_memory(device: torch.device) -> None:
    """Begin to count the peak anew: what other stages of this process needed is not this training's."""
    return_freed_memory()
    forget_process_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


class HeldMemory:
    """What a training holds, step after step."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._settled_gib = 0.0
        self._compact = True  # nothing was freed into the heap before this step
        self.peak_gib = 0.0
        """The most so far; a run that goes on puts what it needed before here."""

    def after_step(self) -> float:
        """GiB now. Steps of ever new shapes fragment the heap, so freed pages are given back when it has grown.

        What a step leaves that begins in a compact heap is what such a step needs, and no reason to give pages back:
        the next step would only fault them in again.
        """
        now = memory_gib(self._device)
        if self._compact:
            self._settled_gib, self._compact = max(self._settled_gib, now), False
        elif self._device.type == "cpu" and now > HEAP_GROWTH * self._settled_gib:
            return_freed_memory()
            self._compact = True
        self.peak_gib = max(self.peak_gib, now, peak_memory_gib(self._device))
        return now


# what the machine could do --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Product:
    """One matrix product of a training step: (m, k) times (k, n)."""

    m: int
    k: int
    n: int
    kind: str
    """forward: x W'; input: the gradient of x, dY W; weight: the gradient of W, dY' x."""
    count: float
    """How often it occurs, in a pass over `m` tokens."""

    @property
    def flops(self) -> float:
        return 2.0 * self.m * self.k * self.n


def products(config: ModelConfig, tokens: int, head_rows: int, supervised: float = 1.0) -> list[Product]:
    """The products of forward and backward over one micro-batch, attention left out.

    Args:
        tokens: In the micro-batch.
        head_rows: Rows of a chunk of the head.
        supervised: Share of the tokens whose prediction counts: the head runs on those alone.
    """
    heads, keys = config.n_heads * config.head_width, config.n_kv_heads * config.head_width
    shapes = [
        (config.width, heads, 1),
        (config.width, keys, 2),
        (heads, config.width, 1),
        (config.width, config.ffn_width, 2),
        (config.ffn_width, config.width, 1),
    ]
    layers = [(tokens, i, o, n * float(config.n_layers)) for i, o, n in shapes]
    rows = max(1, min(head_rows, round(tokens * supervised)))
    head = (rows, config.width, config.vocab_size, tokens * supervised / rows)
    return [
        product
        for m, i, o, count in (*layers, head)
        for product in (
            Product(m, i, o, "forward", count),
            Product(m, o, i, "input", count),
            Product(o, m, i, "weight", count),
        )
    ]


def peak_of_shapes(occurring: Sequence[Product], dtype: torch.dtype, device: torch.device) -> float:
    """FLOP/s that a step would reach if it consisted of these products alone, each at its own best measured speed.

    That is all FLOPs over the sum of the best times: large products count as much as they weigh. Takes about
    SHAPES_SECONDS and at least two runs of each distinct product.
    """
    each = SHAPES_SECONDS / len(occurring)
    best: dict[tuple[int, int, int, str], float] = {}
    for p in occurring:
        key = (p.m, p.k, p.n, p.kind)
        if key not in best:
            best[key] = _best_time(p, dtype, device, each)
    seconds = sum(p.count * best[p.m, p.k, p.n, p.kind] for p in occurring)
    return sum(p.count * p.flops for p in occurring) / seconds


def _best_time(product: Product, dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    left, right = _operands(product, dtype, device)
    result = torch.empty(product.m, product.n, dtype=dtype, device=device)
    best, end = float("inf"), time.perf_counter() + seconds
    first = True
    while first or best == float("inf") or time.perf_counter() < end:
        started = time.perf_counter()
        torch.mm(left, right, out=result)
        if device.type == "cuda":
            torch.cuda.synchronize()
        # The first one loads kernels and touches memory.
        best = best if first else min(best, time.perf_counter() - started)
        first = False
    return best


def _operands(product: Product, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """As the layers have them: weights (out, in) are read transposed forward, activations for the weights' gradient."""
    m, k, n = product.m, product.k, product.n
    if product.kind == "forward":
        return _filled(m, k, dtype, device), _filled(n, k, dtype, device).T
    if product.kind == "input":
        return _filled(m, k, dtype, device), _filled(k, n, dtype, device)
    return _filled(k, m, dtype, device).T, _filled(k, n, dtype, device)


def _filled(rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers that differ, without touching any random stream: a card multiplies zeros faster than weights."""
    line = torch.arange(columns, device=device).remainder(251).sub(125).div(251).to(dtype)
    return line.expand(rows, columns).contiguous()
