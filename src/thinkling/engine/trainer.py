"""The one loop: every stage hands it Batches and a Loss, and it trains.

It alone knows devices, precision, accumulation, checkpoints and resuming. A step takes one Batch, learns the global
count of each loss term from its columns, splits it into micro-batches that fit, and adds up exactly the gradient of the
whole Batch (law 1); the head forms its gradient chunk by chunk in the forward pass.
"""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

import torch
from pydantic import Field
from torch import Tensor

from thinkling.core.config import Config
from thinkling.core.device import process_memory_gib, process_peak_memory_gib, return_freed_memory
from thinkling.core.errors import Interrupted, NumericsError, RunError, Terminated, TerminationRequest
from thinkling.core.progress import Progress
from thinkling.core.run import Run, environment
from thinkling.data.batch import Batch
from thinkling.data.kinds import Kinds
from thinkling.data.prefixes import share
from thinkling.engine import checkpoint
from thinkling.engine.measures import LossByKind, StepClock, UpdateRatio
from thinkling.engine.optimizer import MasterAdamW, Schedule, schedule_factor
from thinkling.engine.reporting import LoggerNames, Reports
from thinkling.losses import Loss
from thinkling.model.attend import PackedAttend
from thinkling.model.config import ModelConfig
from thinkling.model.decoder import Decoder
from thinkling.model.head import HeadOutput, gradient_in_forward, predictions
from thinkling.tokenizer.tokenizer import Tokenizer


class TrainerConfig(Config):
    """Settings of the loop, the same for every stage."""

    learning_rate: float = Field(1e-4, gt=0)
    """Peak; AdamW's."""
    lr_scheduler_type: Schedule = "cosine"
    """constant, linear or cosine, after the warm-up."""
    warmup_ratio: float = Field(0.05, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    minimum_learning_rate_ratio: float = Field(0.0, ge=0, le=1)
    """Where the schedule ends, as a share of the peak."""
    weight_decay: float = Field(0.0, ge=0)
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    adam_epsilon: float = Field(1e-8, gt=0)
    max_grad_norm: float = Field(1.0, ge=0)
    """Gradients of a larger global norm are scaled down to it; 0 leaves them."""
    micro_batch_tokens: int = Field(4096, ge=1)
    """Most tokens in one forward pass; decides memory, never the result. A single longer row still goes whole."""
    head_chunk: int = Field(512, ge=1)
    """Predictions whose logits exist at once."""
    save_steps: int = Field(0, ge=0)
    """A checkpoint every so many steps; 0: at the end only."""
    save_total_limit: int = Field(2, ge=1)
    """Newest checkpoints kept."""
    eval_steps: int = Field(0, ge=0)
    """Validation every so many steps, beside the one before the first and the one after the last; 0: only those."""
    logging_steps: int = Field(1, ge=1)
    update_ratio_steps: int = Field(10, ge=0)
    """The size of an update against that of the weights is measured every so many steps; 0: never."""
    report_to: LoggerNames = ("tensorboard",)
    """Where the curves go beside the run folder: tensorboard, swanlab, trackio, wandb; []: nowhere."""


HEAP_GROWTH = 1.15
"""Over resident memory after the first step; measured: without a limit a run grows from 3.5 to 7 GB in 80 steps."""


class BatchSource(Protocol):
    """Where a stage's Batches come from; its cursor travels in the checkpoint."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


Validate = Callable[[int], dict[str, float]]
"""step -> metrics such as loss/validation; runs without gradient."""


@dataclass
class Trained:
    """How training ended."""

    steps: int
    tokens: int
    seconds: float
    peak_memory_gib: float
    last: dict[str, float] = field(default_factory=dict)
    """The last step's metrics."""


@dataclass(frozen=True)
class Speed:
    """What turns tokens into a share of the machine."""

    peak_flops: float
    """What this machine reaches at the products of this model: measures.peak_of_shapes."""


def micro_batches(batch: Batch, config: TrainerConfig, device: torch.device) -> list[Batch]:
    """What a step computes: its batch in parts that fit, the common beginnings in each part computed once.

    On CUDA nothing is shared: torch's variable-length kernel has not been tried with prefixes.
    """
    parts = batch.split(config.micro_batch_tokens)
    return [(share(part) if device.type == "cpu" else part).to(device) for part in parts]


def step_flops(config: ModelConfig, micros: list[Batch]) -> float:
    """FLOPs of one training step as it is computed: 6 per matrix parameter and token, the head where a prediction
    counts, and attention (12 H E a pair of tokens that see each other)."""
    tokens = sum(micro.n_tokens for micro in micros)
    supervised = sum(len(micro.targets()) for micro in micros)
    # A token at position p sees p + 1 tokens, its prefixes' included; counted as causal attention is, half a square.
    pairs = sum(float(micro.positions.sum()) + micro.n_tokens / 2 for micro in micros)
    attention = 12 * config.n_layers * config.n_heads * config.head_width * pairs
    return 6.0 * config.matrix_parameters * tokens + 6.0 * config.vocab_size * config.width * supervised + attention


def accumulate(
    model: Decoder,
    batch: Batch,
    loss: Loss,
    optimizer: MasterAdamW,
    config: TrainerConfig,
    *,
    clock: StepClock | None = None,
    by_kind: LossByKind | None = None,
) -> tuple[dict[str, float], list[Batch]]:
    """Add the gradient of the whole batch's loss to the optimizer's sums.

    Args:
        clock: Told when forward and backward begin.
        by_kind: Told what the head says of each counted token.

    Returns:
        Each term's mean, and the micro-batches that were computed.

    Raises:
        NumericsError: A loss is not a number; names the rows.
    """
    counts = loss.counts(batch)
    assert all(count > 0 for count in counts.values()), (
        f"a batch without anything to learn reached the trainer: {counts}"
    )
    totals = dict.fromkeys(counts, 0.0)
    micros = micro_batches(batch, config, model.device)
    for micro in micros:
        if clock:
            clock.enter("forward")
        for term, value in _micro_batch(model, micro, loss, counts, optimizer, config, clock, by_kind).items():
            totals[term] += value
    return {term: total / counts[term] for term, total in totals.items()}, micros


def _micro_batch(
    model: Decoder,
    micro: Batch,
    loss: Loss,
    counts: Any,
    optimizer: MasterAdamW,
    config: TrainerConfig,
    clock: StepClock | None,
    by_kind: LossByKind | None,
) -> dict[str, float]:
    """Forward and backward of one micro-batch; returns the terms' sums."""
    if not len(micro.targets()):
        return {}
    hidden = model(micro.tokens, micro.positions, PackedAttend(micro.starts, micro.prefixes))  # (N, D)
    chosen = hidden[micro.predictors()]  # (M, D)
    supervised = micro.supervised()
    sums: dict[str, float] = {}

    def chunk_loss(out: HeadOutput, low: int, high: int) -> Tensor:
        terms = loss.sums(out, supervised.rows(low, high))
        for term, value in terms.items():
            sums[term] = sums.get(term, 0.0) + float(value.detach())
        return torch.stack([loss.coefficients[t] * value / counts[t] for t, value in terms.items()]).sum()

    head = model.lm_head.weight
    said, d_chosen = gradient_in_forward(
        chosen.detach(),
        head.detach(),
        supervised.tokens,
        chunk_loss,
        chunk=config.head_chunk,
        needs=loss.needs,
        add_weight_gradient=functools.partial(optimizer.add, head) if optimizer.trains(head) else None,
    )
    if not all(math.isfinite(value) for value in sums.values()):
        refuse_broken_weights(model, f"rows {', '.join(micro.sources)}")
        raise NumericsError(
            f"the loss is not a number ({', '.join(f'{k} = {v}' for k, v in sums.items())})",
            where=f"rows {', '.join(micro.sources)}",
            fix="look at these rows with `thinkling data show`; lower learning_rate; the last good checkpoint is kept",
        )
    if by_kind:
        by_kind.add(said, supervised)
    if clock:
        clock.enter("backward")
    chosen.backward(d_chosen)
    return sums


@torch.no_grad()
def refuse_broken_weights(model: Decoder, where: str) -> None:
    """Tell weights that are broken from rows that break good ones: no row can mend the former.

    Raises:
        NumericsError: A weight is not finite.
    """
    for name, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise NumericsError(
                f"{name} holds a weight that is not a number",
                where=where,
                fix="lower learning_rate (the last good checkpoint is kept); at the first step, take another model",
            )


@torch.no_grad()
def mean_loss(model: Decoder, batches: list[Batch], config: TrainerConfig) -> float:
    """Nats per counted token over fixed batches."""
    total, count = 0.0, 0.0
    for batch in batches:
        for micro in micro_batches(batch, config, model.device):
            hidden = model(micro.tokens, micro.positions, PackedAttend(micro.starts, micro.prefixes))  # (N, D)
            kept = micro.supervised()
            out = predictions(hidden[micro.predictors()], model.lm_head.weight, kept.tokens, chunk=config.head_chunk)
            total -= float((out.logprobs * kept.loss_weights).sum())
            count += float(kept.loss_weights.sum())
    return total / count


def train(
    model: Decoder,
    tokenizer: Tokenizer,
    batches: BatchSource,
    loss: Loss,
    config: TrainerConfig,
    *,
    steps: int,
    run: Run,
    progress: Progress,
    speed: Speed,
    fingerprint: dict[str, Any],
    validate: Validate | None = None,
) -> Trained:
    """Train for `steps` updates in all, continuing the run's newest whole checkpoint where there is one.

    Args:
        fingerprint: What a resumed run must share (data hash, settings); a checkpoint of another one is refused.

    Raises:
        NumericsError: A loss or gradient is not a number.
        Interrupted: Ctrl-C, or as Terminated SIGTERM; a checkpoint was written first.
        RunError: The checkpoint belongs to other data, or no space is left.
    """
    optimizer = MasterAdamW(
        model,
        betas=(config.adam_beta1, config.adam_beta2),
        epsilon=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
    try:
        return _Loop(
            model, tokenizer, batches, loss, config, steps, run, progress, speed, fingerprint, validate, optimizer
        ).go()
    finally:
        optimizer.close()


@dataclass
class _Loop:
    """The state that lives through one training: see `train` for the fields."""

    model: Decoder
    tokenizer: Tokenizer
    batches: BatchSource
    loss: Loss
    config: TrainerConfig
    steps: int
    run: Run
    progress: Progress
    speed: Speed
    fingerprint: dict[str, Any]
    validate: Validate | None
    optimizer: MasterAdamW
    tokens: int = 0
    seconds: float = 0.0
    peak_memory_gib: float = 0.0
    settled_gib: float = 0.0
    last: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.clock = StepClock(self.model.device)
        self.kinds = Kinds(self.tokenizer)
        self.reports = Reports(self.config.report_to, self.run, self.progress)

    def go(self) -> Trained:
        step = self._resume()
        # The look before the first step is written again with it.
        self.run.keep_steps_up_to(step or -1)
        self.progress.start("train", self.steps, "steps")
        with _StopRequested() as stop, contextlib.closing(self.reports):
            if step == 0:
                self._validate(0, {})
            self.clock.begin_step()
            # `range` stands first in the zip: the other way round, one batch too many is taken at the end.
            for number, batch in zip(range(step + 1, self.steps + 1), self.batches, strict=False):
                step = number
                self.last = self._step(step, batch)
                self._after_step(step, stop)
                self.clock.begin_step()
        if step < self.steps:
            raise RunError(
                f"the data ended after {step} of {self.steps} steps",
                where=str(self.run.path),
                fix="this is a fault of the batch source",
            )
        if stop.requested:  # in the last step: what it trained is saved, and the recipe shall not go on
            raise stop.at_once
        self.progress.finish()
        return Trained(self.steps, self.tokens, self.seconds, self.peak_memory_gib, self.last)

    def _step(self, step: int, batch: Batch) -> dict[str, float]:
        by_kind = LossByKind()
        if self._is_logged(step):
            batch = self.kinds.of(batch)
        self.clock.enter("forward")
        means, micros = accumulate(
            self.model, batch, self.loss, self.optimizer, self.config, clock=self.clock, by_kind=by_kind
        )
        self.clock.enter("optimizer")
        norm = self.optimizer.clip(self.config.max_grad_norm)
        if not math.isfinite(norm):
            raise NumericsError(
                f"the gradient of step {step} is not a number",
                where=f"rows {', '.join(batch.sources)}",
                fix="lower learning_rate; the last good checkpoint is kept",
            )
        rate = self.config.learning_rate * schedule_factor(
            self.config.lr_scheduler_type,
            step,
            warmup_steps=round(self.config.warmup_ratio * self.steps),
            total_steps=self.steps,
            minimum=self.config.minimum_learning_rate_ratio,
        )
        every = self.config.update_ratio_steps
        moving = UpdateRatio(self.optimizer.masters) if every and step % every == 0 else None
        self.optimizer.step(rate)
        moved = {"update/to_weight_ratio": moving.after()} if moving else {}
        self.clock.enter("other")
        took = self.clock.training_s
        self.tokens += batch.n_tokens
        self.seconds += took
        memory = self._memory()
        self.peak_memory_gib = max(self.peak_memory_gib, memory, peak_memory_gib(self.model.device))
        total = sum(self.loss.coefficients[term] * mean for term, mean in means.items())
        flops_per_s = step_flops(self.model.config, micros) / took
        supervised = len(batch.targets())
        return {
            "loss/train": total,
            **{f"loss/{term}": mean for term, mean in means.items() if len(means) > 1},
            **by_kind.metrics(),
            "gradient/norm": norm,
            **moved,
            "learning_rate": rate,
            "tokens/step": batch.n_tokens,
            "tokens/computed": sum(micro.n_tokens for micro in micros),
            "tokens/supervised": supervised,
            "tokens/supervised_share": supervised / batch.n_tokens,
            "tokens/per_s": batch.n_tokens / took,
            "flops/tera_per_s": flops_per_s / 1e12,
            "mfu": flops_per_s / self.speed.peak_flops,
            "memory/gib": memory,
            **self.clock.split(),
        }

    def _is_logged(self, step: int) -> bool:
        """Whether the step has a line in metrics.jsonl: the last one and those with a validation always."""
        return step == self.steps or step % self.config.logging_steps == 0 or self._is_looked_at(step)

    def _is_looked_at(self, step: int) -> bool:
        return step == self.steps or bool(self.config.eval_steps and step % self.config.eval_steps == 0)

    def _memory(self) -> float:
        """GiB now. Steps of ever new shapes fragment the heap, so freed pages are given back when it has grown."""
        memory = memory_gib(self.model.device)
        if self.settled_gib == 0:
            self.settled_gib = memory
        elif self.model.device.type == "cpu" and memory > HEAP_GROWTH * self.settled_gib:
            return_freed_memory()
        return memory

    def _after_step(self, step: int, stop: _StopRequested) -> None:
        due = self.config.save_steps and step % self.config.save_steps == 0
        # Before the look at held-out problems: a grader that fails there must not cost the training.
        if step == self.steps or due:
            self._save(step)
        self.progress.advance(step, **self._record(step))
        if stop.requested and not (step == self.steps or due):
            self._save(step)
        if stop.requested and step < self.steps:
            self.run.finish("interrupted", step=step, steps=self.steps)
            raise stop.error(
                f"stopped after step {step} of {self.steps}; everything up to here is saved",
                where=str(self.run.checkpoint_dir(step)),
                fix="the same command goes on from here",
            )

    def _validate(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        self.clock.enter("evaluation")
        found = self.validate(step) if self.validate else {}
        self.clock.enter("other")
        if found or metrics:
            self._log(step, {**metrics, **found})
        return found

    def _log(self, step: int, metrics: dict[str, float]) -> None:
        line = {**metrics, **self.clock.split()}
        self.run.log(step, line)
        self.reports.log(step, line)

    def _record(self, step: int) -> dict[str, float]:
        """Look at held-out problems where it is time, and log the step."""
        metrics = dict(self.last)
        if self._is_looked_at(step):
            return metrics | self._validate(step, metrics)
        if self._is_logged(step):
            self._log(step, metrics)
        return metrics

    def _save(self, step: int) -> None:
        self.clock.enter("checkpoint")
        self.run.sync()  # a resumed run writes no line of an earlier step again
        refuse_broken_weights(self.model, f"after step {step}")  # or the last good checkpoint would be rotated out
        state = {
            "cursor": self.batches.state(),
            "fingerprint": self.fingerprint,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "peak_memory_gib": self.peak_memory_gib,
            "last": self.last,
            "machine": machine_kind(self.model),
            "environment": environment(),
        }
        checkpoint.save(
            self.run, step, self.model, self.tokenizer, self.optimizer, state, keep=self.config.save_total_limit
        )
        self.clock.enter("other")

    def _resume(self) -> int:
        found = checkpoint.newest(self.run, self.progress)
        if found is None:
            return 0
        for key, value in self.fingerprint.items():
            if found.state["fingerprint"].get(key) != value:
                raise RunError(
                    f"the checkpoint belongs to another {key}: the data or the settings have changed since",
                    where=str(found.path),
                    fix="choose another run folder, or delete this one",
                )
        found.restore(self.optimizer)
        self.batches.restore(found.state["cursor"])
        self.tokens, self.seconds = int(found.state["tokens"]), float(found.state["seconds"])
        self.peak_memory_gib, self.last = float(found.state["peak_memory_gib"]), dict(found.state["last"])
        now = machine_kind(self.model)
        changed = [f"{k} {now[k]} instead of {v}" for k, v in found.state["machine"].items() if now.get(k) != v]
        if changed:
            self.progress.note(
                f"resuming with {', '.join(changed)}: the numbers will differ in the last bits from a run never stopped"
            )
        if all(line["step"] != found.step for line in self.run.metrics()):  # stopped between checkpoint and record
            self.run.keep_steps_up_to(found.step - 1)
            self._record(found.step)
        self.progress.note(f"going on from step {found.step} of {self.steps} ({found.path.name})")
        return found.step


def machine_kind(model: Decoder) -> dict[str, Any]:
    """What a resumed run must share for the same bits."""
    return {
        "threads": torch.get_num_threads(),
        "dtype": str(model.dtype).removeprefix("torch."),
        "torch": torch.__version__,
        "processor": torch.cuda.get_device_name(model.device)
        if model.device.type == "cuda"
        else torch.backends.cpu.get_cpu_capability(),
    }


class _StopRequested:
    """Turns the first Ctrl-C or SIGTERM into a flag that is looked at between steps; the second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self.error: type[Interrupted] = Interrupted
        """What to raise between two steps, once it is requested."""
        self.at_once: type[BaseException] = KeyboardInterrupt
        """What to raise where there is nothing left to save."""

    def __enter__(self) -> _StopRequested:
        in_main = threading.current_thread() is threading.main_thread()
        numbers = (signal.SIGINT, signal.SIGTERM) if in_main else ()
        self._before = {number: signal.signal(number, self._ask) for number in numbers}
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGTERM:
            self.error, self.at_once = Terminated, TerminationRequest
        if self.requested:
            raise self.at_once
        self.requested = True


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
