"""The one loop: every stage hands it Batches and a Loss, and it trains.

What one training is, from top to bottom: go on where a checkpoint is; then, step after step, the gradient of a batch
(`engine/gradient.py`), a look at what speaks against it, the update, the checkpoint, the look at held-out problems, the
line of metrics; at the end, which weights are the model. It alone knows devices, precision, accumulation, checkpoints
and resuming.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from thinkling.core.errors import NumericsError, RunError
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run
from thinkling.data.batch import Batch
from thinkling.data.kinds import Kinds
from thinkling.engine import overfitting, shortage, slowness
from thinkling.engine.averaging import FOLDER
from thinkling.engine.checkpoint import Checkpoint
from thinkling.engine.coverage import Work
from thinkling.engine.gradient import RowLosses, accumulate, refuse_broken_weights, row_losses, step_flops
from thinkling.engine.keeping import Keeper
from thinkling.engine.measures import HeldMemory, LossByKind, StepClock, UpdateRatio, forget_peak_memory
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.reporting import Reports
from thinkling.engine.schedule import rate_factor
from thinkling.engine.selection import Look, best_look, choice_in_words, choice_of, reason_to_stop
from thinkling.engine.settings import TrainerConfig, refuse_length
from thinkling.engine.spikes import MOST_IN_A_ROW, Spike, SpikeWatch, hopeless, stopped_by
from thinkling.engine.stopping import StopRequested
from thinkling.engine.tuning import is_adapter
from thinkling.losses import Loss
from thinkling.model.compiled import compiled_kernels
from thinkling.model.decoder import Decoder
from thinkling.tokenizer.tokenizer import Tokenizer


class BatchSource(Protocol):
    """Where a stage's Batches come from; its cursor travels in the checkpoint."""

    def __iter__(self) -> Iterator[Batch]: ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...

    def metrics(self) -> dict[str, float]:
        """What the batches handed out so far were made of, for metrics.jsonl."""


Validate = Callable[[int], dict[str, float]]
"""step -> metrics such as accuracy/validation; runs without gradient."""


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
    held_out: Sequence[Batch] = (),
    validate: Validate | None = None,
) -> Trained:
    """Train for `steps` updates in all, continuing the run's newest whole checkpoint where there is one.

    Args:
        fingerprint: What a resumed run must share (data hash, settings); a checkpoint of another one is refused.
        held_out: Rows whose cross-entropy every validation measures, as loss/validation.
        validate: What else it measures.

    Raises:
        NumericsError: A loss or gradient is not a number.
        Interrupted: Ctrl-C, or as Terminated SIGTERM; a checkpoint was written first.
        RunError: The checkpoint belongs to other data, or no space is left.
        MachineError: Memory ran out, and no smaller micro-batch is left; or the kernels could not be compiled.
        ConfigError: There is nothing to compile them with, the schedule is longer than the run, or a setting reads
            looks or checkpoints that are not made.
    """
    forget_peak_memory(model.device)
    refuse_length(config, steps, ("loss/validation", "accuracy/validation") if held_out or validate else ())
    optimizer = MasterAdamW(
        model,
        betas=(config.adam_beta1, config.adam_beta2),
        epsilon=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
    try:
        with (
            _kernels(model, config, progress),
            Keeper(run, model, tokenizer, optimizer, config, fingerprint, progress) as keeper,
        ):
            return _Loop(
                model,
                tokenizer,
                batches,
                loss,
                config,
                steps,
                run,
                progress,
                speed,
                held_out,
                validate,
                optimizer,
                keeper,
            ).go()
    finally:
        optimizer.close()


@contextlib.contextmanager
def _kernels(model: Decoder, config: TrainerConfig, progress: Progress) -> Iterator[None]:
    """Those that the settings ask for; what compiling costs is told before and after."""
    if not config.torch_compile:
        yield
        return
    progress.note(tr("torch_compile: compiling kernels, half a minute the first time on a machine, then some seconds"))
    began, shape = time.monotonic(), model.config
    with compiled_kernels(shape.width, shape.ffn_width, model.dtype, model.device):
        progress.note(tr("torch_compile: ready after {seconds} s", seconds=f"{time.monotonic() - began:.1f}"))
        yield


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
    held_out: Sequence[Batch]
    validate: Validate | None
    optimizer: MasterAdamW
    keeper: Keeper
    tokens: int = 0
    seconds: float = 0.0
    last: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)
    """The largest loss and gradient norm since the last line of metrics."""
    looks: list[Look] = field(default_factory=list)
    """What every validation after the first step found."""
    returns: tuple[int, int] = (-1, 0)
    """(step, how often in a row): batches skipped there, or ways back to there."""

    def __post_init__(self) -> None:
        self.spikes = SpikeWatch(self.config)
        self.overfit = overfitting.OverfitWatch(sum(map(self._is_looked_at, range(1, self.steps + 1))))
        self.clock = StepClock(self.model.device)
        self.slow = slowness.SpeedWatch(self.speed.peak_flops, self.model.device.type)
        self.memory = HeldMemory(self.model.device)
        self.kinds = Kinds(self.tokenizer)
        self.reports = Reports(self.config.report_to, self.run, self.progress)

    def go(self) -> Trained:
        # Outermost: a logger that takes its time to close finds everything saved, and Ctrl-C ends the waiting.
        with contextlib.closing(self.reports):
            step = self._resume()
            # The look before the first step is written again with it.
            self.run.keep_steps_up_to(step or -1)
            self.progress.start("train", self.steps, "steps")
            with StopRequested() as stop:
                step = self._steps_after(step, stop)
                ending = self._ending(step)
            if stop.requested:  # in the last step or later: all is saved, and the recipe shall not go on
                raise stop.at_once
        self.progress.finish()
        return Trained(step, self.tokens, self.seconds, self.memory.peak_gib, self.last, ending)

    def _steps_after(self, step: int, stop: StopRequested) -> int:
        """Train to the last step, or to where there is no use in going on; returns that step."""
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
        return step

    def _next(self, batches: Iterator[Batch]) -> Batch | None:
        self.clock.begin_step()
        return next(batches, None)

    def _advance(self, step: int, batch: Batch, stop: StopRequested) -> int:
        """Train on a batch after `step` steps; returns how many steps are done then, fewer where it went back."""
        outcome = self._step(step + 1, batch)
        if isinstance(outcome, Spike):
            return self._after_spike(step, outcome)
        self.last = outcome
        self.overfit.trained(outcome["loss/train"])
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
        if not self.keeper.has_all(step):
            self._save(step, final=True)
        self.keeper.settle()
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
                with self.model.in_step(step):
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
        moved = self._move(step)
        self.spikes.accept(total, norm)
        self.clock.enter("other")
        self.tokens += batch.n_tokens
        self.seconds += self.clock.training_s
        return {
            "loss/train": total,
            **{f"loss/{term}": mean for term, mean in means.items() if len(means) > 1},
            **by_kind.metrics(),
            "gradient/norm": norm,
            **moved,
            **self._throughput(batch, micros),
            "memory/gib": self.memory.after_step(),
            **self.clock.split(),
            **self.batches.metrics(),
        }

    def _move(self, step: int) -> dict[str, float]:
        """The update, at the rate that the schedule has for it; how far the weights moved, where that is measured."""
        seen = [look["loss/validation"] for look in self.looks if "loss/validation" in look]
        rate = self.config.learning_rate * rate_factor(self.config, step, self.steps, seen)
        every = self.config.update_ratio_steps
        moving = UpdateRatio(self.optimizer.masters) if every and step % every == 0 else None
        self._update(step, rate)
        return {**({"update/to_weight_ratio": moving.after()} if moving else {}), "learning_rate": rate}

    def _update(self, step: int, rate: float) -> None:
        try:
            self.optimizer.step(rate)
        except (MemoryError, RuntimeError) as error:
            if shortage.is_shortage(error):
                raise shortage.during_update(step) from error
            raise
        if self.keeper.average is not None:
            self.keeper.average.update(self.optimizer, step)

    def _throughput(self, batch: Batch, micros: list[Batch]) -> dict[str, float]:
        took, supervised = self.clock.training_s, len(batch.targets())
        flops = step_flops(self.model.config, micros, self.speed.work)
        self.slow.computed(flops, took, len(micros), batch.n_tokens)
        flops_per_s = flops / took
        return {
            "tokens/step": batch.n_tokens,
            "tokens/computed": sum(micro.n_tokens for micro in micros),
            "tokens/supervised": supervised,
            "tokens/supervised_share": supervised / batch.n_tokens,
            "tokens/per_s": batch.n_tokens / took,
            "flops/tera_per_s": flops_per_s / 1e12,
            "mfu": flops_per_s / self.speed.peak_flops,
        }

    def _is_logged(self, step: int) -> bool:
        """Whether the step has a line in metrics.jsonl: the last one and those with a validation always."""
        return step == self.steps or step % self.config.logging_steps == 0 or self._is_looked_at(step)

    def _is_looked_at(self, step: int) -> bool:
        return step == self.steps or bool(self.config.eval_steps and step % self.config.eval_steps == 0)

    def _after_step(self, step: int, stop: StopRequested) -> None:
        self.keeper.settle(wait=False)
        due = self.config.save_steps and step % self.config.save_steps == 0
        if step == self.steps or due:
            self._save(step)
        with self._saved_if_it_fails(step):
            told = self._record(step)
        self.progress.advance(step, **told)
        best = self._best()
        is_best = best is not None and best["step"] == step
        if (is_best or stop.requested) and self.keeper.saved != step:
            self._save(step)
        if is_best:
            self.keeper.settle()  # what is best is there
            self.run.write_best(best)
        self._watch_speed(step)
        if stop.requested and step < self.steps:
            self.keeper.settle()
            self.run.finish("interrupted", step=step, steps=self.steps)
            raise stop.error(
                tr("stopped after step {step} of {steps}; everything up to here is saved", step=step, steps=self.steps),
                where=str(self.run.checkpoint_dir(step)),
                fix=tr("the same command goes on from here"),
            )

    def _watch_speed(self, step: int) -> None:
        found = self.slow.after_step(self.clock.split())
        if found is not None:
            self.run.event(step, slowness.EVENT, found.record())
            self.progress.note(found.in_words(step))

    @contextlib.contextmanager
    def _saved_if_it_fails(self, step: int) -> Iterator[None]:
        """A grader that fails in a look must not cost the training: what raises is raised after a checkpoint."""
        try:
            yield
        except BaseException:
            if self.keeper.saved != step:
                self._save(step)
            raise

    def _validate(self, step: int, metrics: dict[str, float]) -> dict[str, float]:
        self.clock.enter("evaluation")
        try:
            losses = row_losses(self.model, self.held_out, self.config) if self.held_out else None
            found: dict[str, float] = {} if losses is None else {"loss/validation": losses.mean}
            found |= self.validate(step) if self.validate else {}
        except (MemoryError, RuntimeError) as error:
            if shortage.is_shortage(error):
                raise shortage.during_validation(step) from error
            raise
        self.clock.enter("other")
        if losses is not None and step:
            self._watch(step, losses)
        self._see(step, found)
        if found or metrics:
            self._log(step, {**metrics, **found})
        return found

    def _watch(self, step: int, losses: RowLosses) -> None:
        """Tell a rise of the held-out loss over a falling one of training: once, also where the look is made again."""
        found = self.overfit.judge(losses)
        if found is not None and (step, overfitting.EVENT) not in {(e["step"], e["event"]) for e in self.run.events()}:
            self.run.event(step, overfitting.EVENT, found.record())
            rank = self.model.tuned.settings.get("rank") if self.model.tuned else None
            self.progress.note(found.in_words(step, overfitting.mends(self.config, rank)))
        self.overfit.accept(step, losses, found)

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
        state = {
            "cursor": self.batches.state(),
            "tokens": self.tokens,
            "seconds": self.seconds,
            "peak_memory_gib": self.memory.peak_gib,
            "last": self.last,
            "peaks": self.peaks,
            "looks": self.looks,
            "spikes": self.spikes.state(),
            "overfitting": self.overfit.state(),
            "returns": self.returns,
            "micro_batch_tokens": self.config.micro_batch_tokens,
        }
        self.keeper.save(step, state, self.looks, final=final or step == self.steps)
        self.clock.enter("other")

    def _after_spike(self, step: int, spike: Spike) -> int:
        """Leave the batch out after `step` steps, or go back; nothing has been updated with it."""
        self.optimizer.forget()
        if self.config.spike_action == "stop":
            self.run.event(step + 1, "spike", spike.record())
            raise stopped_by(spike, step + 1)
        back = self.config.spike_action == "rollback"
        found = self.keeper.to_go_back_to() if back else None
        place = step if found is None else found.step
        self.returns = (place, self.returns[1] + 1 if self.returns[0] == place else 1)
        if self.returns[1] > MOST_IN_A_ROW:
            raise hopeless(spike, step + 1)
        if found is not None:
            self.keeper.forget_after(place)
            self._take(found)
            self.run.keep_steps_up_to(place, events=(overfitting.EVENT,))
            self.reports.begin_again()
        done = {"leapt_at": step + 1, "action": "skip" if found is None else "rollback", "back_to": place}
        # As an event of the step that is done next: a resumed run that does it again writes it again, once.
        self.run.event(place + 1, "spike", {**spike.record(), **done})
        said = {"spike": spike.in_words(step + 1), "rows": ", ".join(spike.rows), "place": place}
        skipped = "{spike}; this batch is left out (rows {rows})"
        returned = "{spike}; back to step {place}, every batch since is left out (rows of the last: {rows})"
        self.progress.note(tr(skipped if found is None else returned, **said))
        return place

    def _take(self, found: Checkpoint) -> None:
        """Everything as it was after the checkpoint's step, except where the data stands and how long it took."""
        self.keeper.restore(found)
        state = found.state
        self.tokens, self.last, self.peaks = int(state["tokens"]), dict(state["last"]), dict(state["peaks"])
        self.looks = list(state["looks"])
        self.spikes.restore(state["spikes"])
        self.overfit.restore(state["overfitting"])
        # No larger than now: where memory ran out since, it would do so again.
        size = min(self.config.micro_batch_tokens, int(state["micro_batch_tokens"]))
        self.config = self.config.model_copy(update={"micro_batch_tokens": size})
        line = next((line for line in self.run.metrics() if line["step"] == found.step), None)
        if line is not None:  # else it stopped between checkpoint and record, and `_resume` makes up for it
            self.peaks = {}
            self._see(found.step, {name: line[name] for name in line if "/validation" in name})
            if self.held_out and self._is_looked_at(found.step) and self.overfit.is_due:
                # The checkpoint was written before the look, whose losses of single rows no line has.
                self._watch(found.step, row_losses(self.model, self.held_out, self.config))
        self.run.write_best(self._best())

    def _resume(self) -> int:
        found = self.keeper.to_go_on_from()
        if found is None:
            return 0
        self._take(found)
        self.batches.restore(found.state["cursor"])
        self.returns = (int(found.state["returns"][0]), int(found.state["returns"][1]))
        self.seconds, self.memory.peak_gib = float(found.state["seconds"]), float(found.state["peak_memory_gib"])
        if all(line["step"] != found.step for line in self.run.metrics()):  # stopped between checkpoint and record
            self.run.keep_steps_up_to(found.step - 1, events=())
            self._record(found.step)
            self.run.write_best(self._best())
        text = "going on from step {step} of {steps} ({name})"
        self.progress.note(tr(text, step=found.step, steps=self.steps, name=found.path.name))
        return found.step
