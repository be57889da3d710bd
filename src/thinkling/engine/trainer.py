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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from pydantic import Field, model_validator
from torch import Tensor

from thinkling.core.device import forget_process_peak, process_memory_gib, process_peak_memory_gib, return_freed_memory
from thinkling.core.errors import Interrupted, NumericsError, RunError, Terminated, TerminationRequest
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run, environment
from thinkling.data.batch import Batch
from thinkling.data.kinds import Kinds
from thinkling.data.prefixes import share
from thinkling.engine import checkpoint, shortage
from thinkling.engine.averaging import FOLDER, AveragingConfig, MovingAverage, mean_of_files, members, save_average
from thinkling.engine.coverage import Work, full_work
from thinkling.engine.measures import LossByKind, StepClock, UpdateRatio
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.reporting import LoggerNames, Reports
from thinkling.engine.schedule import ScheduleConfig, rate_factor, refuse_schedule
from thinkling.engine.selection import (
    Look,
    SelectionConfig,
    best_look,
    choice_in_words,
    choice_of,
    reason_to_stop,
    refuse_unseen_metrics,
)
from thinkling.engine.spikes import MOST_IN_A_ROW, Spike, SpikeConfig, SpikeWatch, hopeless, stopped_by
from thinkling.engine.tuning import is_adapter
from thinkling.losses import Loss
from thinkling.model.attend import PackedAttend
from thinkling.model.config import ModelConfig
from thinkling.model.decoder import Decoder
from thinkling.model.head import HeadOutput, gradient_in_forward, predictions
from thinkling.tokenizer.tokenizer import Tokenizer


class TrainerConfig(ScheduleConfig, SelectionConfig, AveragingConfig, SpikeConfig):
    """Settings of the loop, the same for every stage."""

    learning_rate: float = Field(1e-4, gt=0)
    """Peak; AdamW's."""
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
    """A line of metrics every so many steps; above 1 it also has the largest loss and gradient norm since the last."""
    update_ratio_steps: int = Field(10, ge=0)
    """The size of an update against that of the weights is measured every so many steps; 0: never."""
    report_to: LoggerNames = ("tensorboard",)
    """Where the curves go beside the run folder: tensorboard, swanlab, trackio, wandb; []: nowhere."""

    @model_validator(mode="after")
    def _what_reads_checkpoints_has_some(self) -> TrainerConfig:
        reading = ["average: last"] if self.average == "last" else []
        reading += ["spike_action: rollback"] if self.spike_action == "rollback" else []
        if reading and not self.save_steps:
            raise ValueError(tr("{settings} needs checkpoints on the way: set save_steps", settings=", ".join(reading)))
        if self.final_model == "average" and self.average is None:
            raise ValueError(tr("final_model: average needs average"))
        return self


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
    ending: dict[str, Any] = field(default_factory=dict)
    """For done.json: where the run's model lies, why it, and why training ended before its last step where it did."""


@dataclass(frozen=True)
class Speed:
    """What turns tokens into a share of the machine."""

    peak_flops: float
    """What this machine reaches at the products of this model: measures.peak_of_shapes."""
    work: Work | None = None
    """Of a step; None: that of full fine-tuning."""


def micro_batches(batch: Batch, config: TrainerConfig, device: torch.device) -> list[Batch]:
    """What a step computes: its batch in parts that fit, the common beginnings in each part computed once.

    On CUDA nothing is shared: torch's variable-length kernel has not been tried with prefixes.
    """
    parts = batch.split(config.micro_batch_tokens)
    return [(share(part) if device.type == "cpu" else part).to(device) for part in parts]


def step_flops(config: ModelConfig, micros: list[Batch], work: Work | None = None) -> float:
    """FLOPs of one training step as it is computed, of full fine-tuning where no `work` is given.

    Full: 6 per matrix parameter and token, the head where a prediction counts, and attention (12 H E a pair of tokens
    that see each other).
    """
    work = work or full_work(config)
    tokens = sum(micro.n_tokens for micro in micros)
    supervised = sum(len(micro.targets()) for micro in micros)
    # A token at position p sees p + 1 tokens, its prefixes' included; counted as causal attention is, half a square.
    pairs = sum(float(micro.positions.sum()) + micro.n_tokens / 2 for micro in micros)
    return work.per_token * tokens + work.per_prediction * supervised + work.per_pair * pairs


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
        MachineError: Memory ran out, and no smaller micro-batch is left.
        ConfigError: The schedule is longer than the run, or a setting reads validations that are not made.
    """
    forget_peak_memory(model.device)
    refuse_schedule(config, steps)
    refuse_unseen_metrics(config, ("loss/validation", "accuracy/validation") if validate else (), config.eval_steps)
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
    peaks: dict[str, float] = field(default_factory=dict)
    """The largest loss and gradient norm since the last line of metrics."""
    looks: list[Look] = field(default_factory=list)
    """What every validation after the first step found."""
    returns: tuple[int, int] = (-1, 0)
    """(step, how often in a row): batches skipped there, or ways back to there."""
    saved: int = -1
    """The step of the newest good checkpoint."""

    def __post_init__(self) -> None:
        self.spikes = SpikeWatch(self.config)
        ema = self.config.average == "ema"
        self.average = MovingAverage(self.optimizer, self.config.average_decay) if ema else None
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
            batches = iter(self.batches)
            # The batch is taken last: one that is not trained on costs a round of sampling in RL.
            while step < self.steps and self._reason_to_stop() is None and (batch := self._next(batches)) is not None:
                step = self._advance(step, batch, stop)
        if step < self.steps and self._reason_to_stop() is None:
            raise RunError(
                f"the data ended after {step} of {self.steps} steps",
                where=str(self.run.path),
                fix="this is a fault of the batch source",
            )
        ending = self._ending(step)
        if stop.requested:  # in the last step: what it trained is saved, and the recipe shall not go on
            raise stop.at_once
        self.progress.finish()
        return Trained(step, self.tokens, self.seconds, self.peak_memory_gib, self.last, ending)

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        self.clock.begin_step()
        return next(batches, None)

    def _advance(self, step: int, batch: Batch, stop: _StopRequested) -> int:
        """Train on a batch after `step` steps; returns how many steps are done then, fewer where it went back."""
        outcome = self._step(step + 1, batch)
        if isinstance(outcome, Spike):
            return self._after_spike(step, outcome)
        self.last = outcome
        for name, metric in (("loss/train_max", "loss/train"), ("gradient/norm_max", "gradient/norm")):
            self.peaks[name] = max(self.peaks.get(name, -math.inf), outcome[metric])
        self._after_step(step + 1, stop)
        return step + 1

    def _reason_to_stop(self) -> str | None:
        return reason_to_stop(self.looks, self.config)

    def _best(self) -> Look | None:
        return best_look(self.looks, self.config.save_best) if self.config.save_best else None

    def _ending(self, step: int) -> dict[str, Any]:
        """The last save where it is still to be made, and which weights are the run's model."""
        lacks_average = self.config.average == "last" and not (self.run.checkpoint_dir(step) / FOLDER).is_dir()
        if self.saved != step or lacks_average:
            self._save(step, final=True)
        why, choice = self._reason_to_stop() if step < self.steps else None, choice_of(self.config)
        best = self._best()
        place = round(best["step"]) if choice == "best" and best is not None else step
        said = choice_in_words(self.config, self.looks, step)
        if why is not None:
            self.progress.note(
                tr("stopped early, after step {step} of {steps}: {why}", step=step, steps=self.steps, why=why)
            )
        self.progress.note(said)
        kept = "adapter" if is_adapter(self.model) else "model"
        folder = self.run.checkpoint_dir(place) / (FOLDER if choice == "average" else kept)
        early = {} if why is None else {"stopped_early": why}
        return {"model": folder.relative_to(self.run.path).as_posix(), "model_is": said, **early}

    def _gradient(self, step: int, batch: Batch) -> tuple[dict[str, float], list[Batch], float, LossByKind]:
        """The batch's gradient in the optimizer's sums: each term's mean, the micro-batches, the norm before clipping,
        and the loss by kind.

        Where memory runs out nothing has been updated, and the step is done again in smaller micro-batches.
        """
        while True:
            by_kind = LossByKind()
            self.clock.enter("forward")
            try:
                means, micros = accumulate(
                    self.model, batch, self.loss, self.optimizer, self.config, clock=self.clock, by_kind=by_kind
                )
                self.clock.enter("optimizer")
                return means, micros, self.optimizer.clip(self.config.max_grad_norm), by_kind
            except (MemoryError, RuntimeError) as error:
                if not shortage.is_shortage(error):
                    raise
                size = shortage.smaller(batch, self.config.micro_batch_tokens)
                if size is None:
                    raise shortage.exhausted(batch, step, error) from error
            # Only here has the error let go of what the failed attempt held.
            self.optimizer.forget()
            shortage.give_back(self.model.device)
            self.config = self.config.model_copy(update={"micro_batch_tokens": size})
            self.run.event(step, "out of memory", {"micro_batch_tokens": size})
            text = "step {step}: memory ran out; going on with micro_batch_tokens {size}, the gradient stays the same"
            self.progress.note(tr(text, step=step, size=size))

    def _update(self, step: int, rate: float) -> None:
        try:
            self.optimizer.step(rate)
        except (MemoryError, RuntimeError) as error:
            if shortage.is_shortage(error):
                raise shortage.during_update(step) from error
            raise
        if self.average is not None:
            self.average.update(self.optimizer, step)

    def _spike_of_broken_loss(self, batch: Batch, error: NumericsError) -> Spike:
        """A loss that is not a number, where the settings say to go on without such rows."""
        if self.config.spike_action not in ("skip", "rollback"):
            raise error
        refuse_broken_weights(self.model, error.where)
        return Spike("loss", math.nan, math.nan, math.inf, batch.sources)

    def _step(self, step: int, batch: Batch) -> dict[str, float] | Spike:
        """One update, or what speaks against it."""
        if self._is_logged(step):
            batch = self.kinds.of(batch)
        try:
            means, micros, norm, by_kind = self._gradient(step, batch)
        except NumericsError as error:
            return self._spike_of_broken_loss(batch, error)
        total = sum(self.loss.coefficients[term] * mean for term, mean in means.items())
        spike = self.spikes.judge(total, norm, batch.sources)
        if spike is not None:
            return spike
        if not math.isfinite(norm):
            raise NumericsError(
                f"the gradient of step {step} is not a number",
                where=f"rows {', '.join(batch.sources)}",
                fix="lower learning_rate; the last good checkpoint is kept",
            )
        seen = [look["loss/validation"] for look in self.looks if "loss/validation" in look]
        rate = self.config.learning_rate * rate_factor(self.config, step, self.steps, seen)
        every = self.config.update_ratio_steps
        moving = UpdateRatio(self.optimizer.masters) if every and step % every == 0 else None
        self._update(step, rate)
        moved = {"update/to_weight_ratio": moving.after()} if moving else {}
        self.spikes.accept(total, norm)
        self.clock.enter("other")
        took = self.clock.training_s
        self.tokens += batch.n_tokens
        self.seconds += took
        memory = self._memory()
        self.peak_memory_gib = max(self.peak_memory_gib, memory, peak_memory_gib(self.model.device))
        flops_per_s = step_flops(self.model.config, micros, self.speed.work) / took
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
        best = self._best()
        is_best = best is not None and best["step"] == step
        if (is_best or stop.requested) and self.saved != step:
            self._save(step)
        if is_best:
            self.run.write_best(best)
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
        self._see(step, found)
        if found or metrics:
            self._log(step, {**metrics, **found})
        return found

    def _see(self, step: int, found: Mapping[str, float]) -> None:
        """Remember a look."""
        if found and step:
            self.looks = [*(look for look in self.looks if look["step"] < step), {"step": step, **found}]

    def _log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A line of metrics; what stood out in the steps between is told with it."""
        peaks = self.peaks if self.config.logging_steps > 1 else {}
        line = {**metrics, **peaks, **self.clock.split()}
        self.run.log(step, line)
        self.reports.log(step, line)
        self.peaks = {}

    def _record(self, step: int) -> dict[str, float]:
        """Look at held-out problems where it is time, and log the step."""
        metrics = dict(self.last)
        if self._is_looked_at(step):
            return metrics | self._validate(step, metrics)
        if self._is_logged(step):
            self._log(step, metrics)
        return metrics

    def _save(self, step: int, *, final: bool = False) -> None:
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
            "peaks": self.peaks,
            "looks": self.looks,
            "spikes": self.spikes.state(),
            "returns": self.returns,
            "micro_batch_tokens": self.config.micro_batch_tokens,
            "machine": machine_kind(self.model),
            "environment": environment(),
        }
        final = final or step == self.steps
        checkpoint.save(
            self.run,
            step,
            self.model,
            self.tokenizer,
            self.optimizer,
            state,
            keep=self.config.save_total_limit,
            spare=self._spared(step),
            beside=functools.partial(self._save_average, step, final),
        )
        self.saved = step
        self.clock.enter("other")

    def _spared(self, step: int) -> set[int]:
        """Checkpoints that are still needed, however old: the best, those to be averaged, the one to go back to."""
        steps = [s for s, _ in self.run.checkpoints()]
        best = self._best()
        spared = {round(best["step"])} if best is not None else set()
        if self.config.average == "last":
            spared |= {*members(steps, step, save_steps=self.config.save_steps, last=self.config.average_last)}
        if self.config.spike_action == "rollback":
            spared |= {*members(steps, step + 1, save_steps=self.config.save_steps, last=2)}
        return spared

    def _save_average(self, step: int, final: bool, folder: Path) -> None:
        """The average's own model folder, in the checkpoint that is being written."""
        values = None
        if self.average is not None:
            self.average.save(folder)
            values = self.average.values
        elif self.config.average == "last" and final:
            steps = [s for s, _ in self.run.checkpoints()]
            chosen = members(steps, step, save_steps=self.config.save_steps, last=self.config.average_last)
            values = mean_of_files([self.run.checkpoint_dir(s) for s in chosen[:-1]], self.optimizer)
        if values is not None:
            save_average(self.model, self.tokenizer, self.optimizer, values, folder)

    def _after_spike(self, step: int, spike: Spike) -> int:
        """Leave the batch out after `step` steps, or go back; nothing has been updated with it."""
        self.optimizer.forget()
        if self.config.spike_action == "stop":
            self.run.event(step + 1, "spike", spike.record())
            raise stopped_by(spike, step + 1)
        back = self.config.spike_action == "rollback"
        found = checkpoint.newest(self.run, self.progress, every=self.config.save_steps) if back else None
        place = step if found is None else found.step
        self.returns = (place, self.returns[1] + 1 if self.returns[0] == place else 1)
        if self.returns[1] > MOST_IN_A_ROW:
            raise hopeless(spike, step + 1)
        if found is not None:
            self._take(found)
            self.run.keep_steps_up_to(place, events=False)
        done = {"leapt_at": step + 1, "action": "skip" if found is None else "rollback", "back_to": place}
        # As an event of the step that is done next: a resumed run that does it again writes it again, once.
        self.run.event(place + 1, "spike", {**spike.record(), **done})
        said = {"spike": spike.in_words(step + 1), "rows": ", ".join(spike.rows), "place": place}
        skipped = "{spike}; this batch is left out (rows {rows})"
        returned = "{spike}; back to step {place}, every batch since is left out (rows of the last: {rows})"
        self.progress.note(tr(skipped if found is None else returned, **said))
        return place

    def _take(self, found: checkpoint.Checkpoint) -> None:
        """Everything as it was after the checkpoint's step, except where the data stands and how long it took."""
        found.restore(self.optimizer)
        self.optimizer.forget()
        if self.average is not None:
            self.average.restore(found.path)
        state = found.state
        self.tokens, self.last, self.peaks = int(state["tokens"]), dict(state["last"]), dict(state["peaks"])
        self.looks = list(state["looks"])
        self.spikes.restore(state["spikes"])
        self.config = self.config.model_copy(update={"micro_batch_tokens": int(state["micro_batch_tokens"])})
        self.saved = found.step
        line = next((line for line in self.run.metrics() if line["step"] == found.step), None)
        if line is not None:  # else it stopped between checkpoint and record, and `_resume` makes up for it
            self.peaks = {}
            self._see(found.step, {name: line[name] for name in line if "/validation" in name})
        self.run.write_best(self._best())

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
        self._take(found)
        self.batches.restore(found.state["cursor"])
        self.returns = (int(found.state["returns"][0]), int(found.state["returns"][1]))
        self.seconds, self.peak_memory_gib = float(found.state["seconds"]), float(found.state["peak_memory_gib"])
        now = machine_kind(self.model)
        changed = [f"{k} {now[k]} instead of {v}" for k, v in found.state["machine"].items() if now.get(k) != v]
        if changed:
            self.progress.note(
                f"resuming with {', '.join(changed)}: the numbers will differ in the last bits from a run never stopped"
            )
        if all(line["step"] != found.step for line in self.run.metrics()):  # stopped between checkpoint and record
            self.run.keep_steps_up_to(found.step - 1, events=False)
            self._record(found.step)
            self.run.write_best(self._best())
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


def forget_peak_memory(device: torch.device) -> None:
    """Begin to count the peak anew: what other stages of this process needed is not this training's."""
    return_freed_memory()
    forget_process_peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
