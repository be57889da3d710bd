"""Supervised fine-tuning: the model learns to continue prompts with given answers. Only assistant tokens weigh.

The method, in order: gather conversations from files and tasks; render them with the model's own template; drop or cut
what is too long, by rule and aloud; refuse what would teach nothing; promise rows, tokens, steps, memory and minutes;
then train on the answers, and look at held-out problems by loss and by generation on the way.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, field_validator, model_validator

from thinkling.core.config import Config as Settings
from thinkling.core.device import compute_dtype, default_device, measure_peak, memory
from thinkling.core.errors import ConfigError, MachineError
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run, referred
from thinkling.core.stats import wilson
from thinkling.data.batch import Batch
from thinkling.data.generated import training_problems
from thinkling.data.loader import Loader
from thinkling.data.prepare import MAX_LOST_ANSWERS, Prepared, TokenRow, prepare
from thinkling.data.rows import read_conversations
from thinkling.data.types import Conversation, Message, Problem, Rollout
from thinkling.engine.coverage import Coverage, Work, advice, coverage, in_words
from thinkling.engine.generate import Engine, Sampling
from thinkling.engine.gradient import mean_loss, micro_batches, step_flops
from thinkling.engine.measures import peak_of_shapes, products
from thinkling.engine.plan import training_memory, training_minutes
from thinkling.engine.range_test import Probe, range_test
from thinkling.engine.rollout import attempt, check_references, messages_for, task_named
from thinkling.engine.schedule import refuse_schedule
from thinkling.engine.selection import unseen_metric
from thinkling.engine.settings import TrainerConfig
from thinkling.engine.trainer import Speed, Validate, train
from thinkling.engine.tuning import checked, tune
from thinkling.losses import CROSS_ENTROPY
from thinkling.model.config import ModelConfig
from thinkling.model.decoder import Decoder
from thinkling.model.folder import read_config
from thinkling.model.names import at_hand, resolve
from thinkling.stages._models import base_of, load_plain
from thinkling.tokenizer.tokenizer import Tokenizer

PLANNED_BATCHES = 64
"""Batches laid out to foresee the time of all: enough for a per cent, in well under a second."""


class DataSpec(Settings):
    """Rows to train on: a file of conversations, or problems with worked solutions from a task."""

    file: str | None = None
    """JSONL or JSON in any known format."""
    format: str | None = None
    """A name from the shelf `formats`; None recognises it by its exact keys."""
    options: dict[str, Any] | None = None
    """Of that format, such as {calculator_marks: true} of gsm8k."""
    task: str | None = None
    """A name from the shelf `tasks`, or a file of your own."""
    level: int | None = None
    n: int | None = Field(None, ge=1)
    """How many rows; None: all of a file."""
    path: str | None = None
    """A file for tasks that come from a file."""

    @model_validator(mode="after")
    def _check(self) -> DataSpec:
        if (self.file is None) == (self.task is None):
            raise ValueError(tr("name either a file or a task"))
        without_effect = [k for k in ("level", "path") if self.file is not None and getattr(self, k) is not None]
        without_effect += [k for k in ("format", "options") if self.task is not None and getattr(self, k)]
        if without_effect:
            raise ValueError(tr("{settings} has no effect here", settings=", ".join(without_effect)))
        return self

    @property
    def label(self) -> str:
        return self.file or (f"{self.task}" if self.level is None else f"{self.task}, level {self.level}")


class Config(TrainerConfig):
    """Settings of supervised fine-tuning, beside those of the loop."""

    name: str = "sft"
    model: str
    """Alias, folder, GGUF file, hub id, or @STAGE for what an earlier stage of the recipe trained."""
    data: tuple[DataSpec, ...] = Field(min_length=1)
    validation: tuple[DataSpec, ...] = ()
    """Held-out rows for the loss; tasks draw their validation split. Empty: that of each task in data."""
    validation_rows: int = Field(64, ge=0)
    """Most rows of the validation loss; 0: none."""
    generate_rows: int = Field(24, ge=0)
    """Held-out problems answered at each evaluation; 0: loss only."""
    max_new_tokens: int = Field(192, ge=1)
    """For those answers."""
    system: str | None = None
    """System message of rows made from tasks; None leaves the model's own default."""
    cutoff_len: int = Field(1024, ge=2)
    """Longest row, in tokens."""
    too_long: Literal["drop", "cut", "error"] = "drop"
    max_lost_answers: float = Field(MAX_LOST_ANSWERS, ge=0, le=1)
    """Share of rows that may lose the end of their answer before the run is refused."""
    num_train_epochs: float | None = Field(1.0, gt=0)
    """How often each row is trained on; None beside max_steps."""
    max_steps: int | None = Field(None, ge=1)
    """Updates, instead of num_train_epochs."""
    batch_tokens: int | None = Field(4096, ge=1)
    """Tokens of one update."""
    batch_size: int | None = Field(None, ge=1)
    """Rows of one update, instead of batch_tokens."""
    memory_limit_gib: float | None = Field(None, gt=0)
    """The training is refused where its plan needs more, such as 8 for a card of 8 GB; None: what the device has."""
    price_per_hour: float | None = Field(None, ge=0)
    """Of the machine, in any currency; with it, the plan tells the money."""
    tuning: dict[str, Any] = Field({"method": "full"})
    """What is trained: {method: NAME} from the shelf `tuning`, with that method's settings."""
    seed: int = 0

    @field_validator("tuning", mode="before")
    @classmethod
    def _tuning(cls, value: Any) -> dict[str, Any]:
        return checked(value)

    @model_validator(mode="before")
    @classmethod
    def _one_of_two(cls, values: Any) -> Any:
        """What is given takes the place of the other one's default; both are too much."""
        if not isinstance(values, dict):
            return values
        if values.get("batch_size") is not None:
            if values.get("batch_tokens") is not None:
                raise ValueError(tr("batch_tokens and batch_size both say how large an update is; give one"))
            values = {**values, "batch_tokens": None}
        if values.get("max_steps") is not None:
            if values.get("num_train_epochs") is not None:
                raise ValueError(tr("num_train_epochs has no effect beside max_steps; give one, the other as null"))
            values = {**values, "num_train_epochs": None}
        return values

    @model_validator(mode="after")
    def _enough_said(self) -> Config:
        if self.batch_tokens is None and self.batch_size is None:
            raise ValueError(tr("an update has no size; give batch_tokens or batch_size"))
        if self.num_train_epochs is None and self.max_steps is None:
            raise ValueError(tr("the training has no length; give num_train_epochs or max_steps"))
        return self

    @model_validator(mode="after")
    def _nothing_without_effect(self) -> Config:
        """Held-out rows come from `validation`, or else from the tasks in `data`; problems from tasks alone."""
        held_out = _held_out_specs(self)
        idle = [] if held_out else self._changed("validation_rows", "eval_steps")
        idle += [] if any(spec.task for spec in held_out) else self._changed("generate_rows")
        if idle:
            without = "{settings} has no effect: nothing is held out; name rows under validation, or leave it out"
            without_tasks = "{settings} has no effect: only tasks have problems to answer, and none is held out"
            raise ValueError(tr(without_tasks if held_out else without, settings=", ".join(idle)))
        if self.system is not None and not any(spec.task for spec in (*self.data, *held_out)):
            raise ValueError(tr("system has no effect: rows of a file have their own, and there are none of tasks"))
        return self

    @model_validator(mode="after")
    def _validations_that_are_read_are_made(self) -> Config:
        held_out = _held_out_specs(self)
        available = ["loss/validation"] if held_out and self.validation_rows else []
        available += ["accuracy/validation"] if any(s.task for s in held_out) and self.generate_rows else []
        wrong = unseen_metric(self, available, self.eval_steps)
        if wrong is not None:
            raise ValueError(wrong)
        return self

    def _changed(self, *names: str) -> list[str]:
        """Those that ask for something, and for something other than the default."""
        return [name for name in names if getattr(self, name) not in (0, type(self).model_fields[name].default)]


def run(config: Config, run: Run, progress: Progress, earlier: Mapping[str, Run]) -> None:
    """Train, and leave the trained model in the run's last checkpoint.

    Raises:
        DataError: The data would teach nothing, or loses too many answers.
        MachineError: It would not fit into memory.
        NumericsError, Interrupted, RunError: As `engine.trainer.train`.
    """
    began = time.monotonic()
    name = referred(config.model, earlier)
    ready = make_ready(config, name, progress)
    run.write_plan(ready.plan)
    refuse_what_does_not_fit(ready.plan, memory_at_hand(config), progress)
    progress.table("plan", plan_in_words(ready.plan))
    model, tokenizer, identity = load_plain(name, progress)
    run.write_plan({**ready.plan, "model": identity})
    tune(model, config.tuning, base_of(identity))
    trained = train(
        model,
        tokenizer,
        ready.loader,
        CROSS_ENTROPY,
        config,
        steps=ready.steps,
        run=run,
        progress=progress,
        speed=Speed(peak_of_own_products(model, config, ready.plan), ready.coverage.work),
        fingerprint={
            "data": data_hash(ready.prepared.rows),
            "base model": identity["hash"],
            "number of steps": ready.steps,
        },
        validate=validator(config, model, tokenizer, run, progress),
    )
    run.finish(
        "finished",
        steps=trained.steps,
        tokens=trained.tokens,
        minutes=(time.monotonic() - began) / 60,
        training_minutes=trained.seconds / 60,
        tokens_per_s=trained.tokens / trained.seconds,
        peak_memory_gib=trained.peak_memory_gib,
        last=trained.last,
        **trained.ending,
    )


def probe_rates(config: Config, progress: Progress, *, low: float, high: float, steps: int) -> list[Probe]:
    """A learning-rate range test on this stage's data and model; nothing is saved. `model` names a model, not a stage.

    Raises:
        ThinklingError: What the run would refuse before its first step.
    """
    ready = make_ready(config, config.model, progress)
    refuse_what_does_not_fit(ready.plan, memory_at_hand(config), progress)
    model, _, identity = load_plain(config.model, progress)
    tune(model, config.tuning, base_of(identity))
    loss = CROSS_ENTROPY
    return range_test(model, ready.loader, loss, config, low=low, high=high, steps=steps, progress=progress)


def peak_of_own_products(model: Decoder, config: Config, plan: Mapping[str, Any]) -> float:
    """FLOP/s that this machine reaches at the products of a usual micro-batch, measured within a second."""
    tokens = min(config.micro_batch_tokens, max(1, plan["tokens"] // plan["steps"]))
    share = plan["supervised_tokens"] / plan["tokens"]
    return peak_of_shapes(products(model.config, tokens, config.head_chunk, share), model.dtype, model.device)


def promise(config: Config, progress: Progress) -> dict[str, str]:
    """What a run would do and need, in words; no weight is loaded, nothing fetched. `model` names a model, not a stage.

    Raises:
        ThinklingError: What the run would refuse before its first step.
    """
    if not at_hand(config.model):
        return {tr("plan"): tr("known once the model is here: thinkling models pull {model}", model=config.model)}
    plan = make_ready(config, config.model, progress).plan
    refuse_what_does_not_fit(plan, memory_at_hand(config), progress)
    return plan_in_words(plan)


@dataclass(frozen=True)
class Ready:
    """All that is known before the weights are loaded."""

    prepared: Prepared
    loader: Loader
    steps: int
    peak_flops: float
    coverage: Coverage
    plan: dict[str, Any]
    """plan.json, without the hash of the weights."""


def make_ready(config: Config, model: str, progress: Progress) -> Ready:
    """Prepare the data for the named model, and plan.

    Raises:
        DataError: The data would teach nothing, or loses too many answers.
        ModelError: There is no such model.
    """
    folder = resolve(model, progress)
    shape = read_config(folder)
    found = coverage(shape, config.tuning)  # a method that does not fit is refused before the rows are read
    prepared = prepare_data(config, Tokenizer.load(folder), progress)
    for line in prepared.report.lines():
        progress.note(line)
    loader = _loader(config, prepared.rows)
    steps = config.max_steps or max(1, round(loader.n_batches(1) * (config.num_train_epochs or 0)))
    refuse_schedule(config, steps)
    device = default_device().type
    peak = measure_peak(compute_dtype(device), 0.5, device)
    for line in advice(config.tuning, len(prepared.rows)):
        progress.note(line)
    plan = make_plan(config, prepared, shape, loader, steps, peak, found)
    return Ready(prepared, loader, steps, peak, found, plan)


# data -----------------------------------------------------------------------------------------------------------------


def conversations_of(
    spec: DataSpec, config: Config, split: str, progress: Progress | None = None
) -> list[Conversation]:
    """The rows of one source, in the order they come."""
    if spec.file is not None:
        return read_conversations(Path(spec.file), spec.format, spec.options, progress=progress)[: spec.n]
    assert spec.task is not None
    task = task_named(spec.task)
    problems = training_problems(task, spec.n, split=split, level=spec.level, seed=config.seed, path=spec.path)
    return [solved(task, problem, config.system) for problem in problems]


def solved(task: Any, problem: Problem, system: str | None) -> Conversation:
    """A problem with its worked solution as a conversation: the prompt is the very one that evaluation asks.

    Raises:
        ConfigError: The problem has no worked solution to learn from.
    """
    if problem.solution is None:
        raise ConfigError(
            tr("this task has answers but no worked solutions, so there is nothing to imitate"),
            where=tr("task {name}, {id}", name=problem.task, id=problem.id),
            fix=tr("train on a task with solutions, or use these problems for evaluation"),
        )
    messages = (*messages_for(task, problem, system), Message("assistant", problem.solution))
    return Conversation(messages, source=f"{problem.task}/{problem.id}")


def prepare_data(config: Config, tokenizer: Tokenizer, progress: Progress) -> Prepared:
    """All sources as token rows, with the account of what was lost."""
    conversations = [c for spec in config.data for c in conversations_of(spec, config, "train", progress)]
    return prepare(
        conversations,
        tokenizer,
        cutoff_len=config.cutoff_len,
        too_long=config.too_long,
        max_lost_answers=config.max_lost_answers,
        progress=progress,
    )


def _loader(config: Config, rows: list[TokenRow]) -> Loader:
    if config.batch_size is not None:
        return Loader(rows, batch_rows=config.batch_size, seed=config.seed)
    return Loader(rows, batch_tokens=config.batch_tokens, seed=config.seed)


def data_hash(rows: Sequence[TokenRow]) -> str:
    """Names the very tokens and weights trained on; a resumed run must have the same."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.tokens, row.weights)).encode())
    return digest.hexdigest()[:16]


# the promise ----------------------------------------------------------------------------------------------------------


def make_plan(
    config: Config,
    prepared: Prepared,
    model: ModelConfig,
    loader: Loader,
    steps: int,
    peak_flops: float,
    found: Coverage,
) -> dict[str, Any]:
    """plan.json: rows, tokens, steps, memory by kind, minutes, and the money where a price is given."""
    report, device = prepared.report, default_device().type
    share = steps / loader.n_batches(1)
    largest = max(sum(len(prepared.rows[r].tokens) for r in chosen) for chosen in loader.plan(0))
    longest = max(len(row.tokens) for row in prepared.rows)
    needed = training_memory(
        model,
        compute_dtype(device),
        micro_batch_tokens=min(config.micro_batch_tokens, largest),
        longest=longest,
        head_chunk=config.head_chunk,
        coverage=found,
    )
    minutes = training_minutes(_flops_per_epoch(config, model, loader, found.work) * share, peak_flops, device)
    plan = {
        "rows": report.rows,
        "kept": report.kept,
        "dropped": report.dropped,
        "cut": report.cut,
        "tokens": round(report.tokens * share),
        "supervised_tokens": round(report.supervised_tokens * share),
        "longest_row": longest,
        "steps": steps,
        "epochs": share,
        "parameters": found.parameters,
        "trainable_parameters": found.trained,
        "layers": model.n_layers,
        "tuning": {**found.as_dict(), "advice": advice(config.tuning, len(prepared.rows))},
        "memory_gib": needed.as_dict(),
        "peak_tflops": peak_flops / 1e12,
        "minutes": minutes,
    }
    return plan if config.price_per_hour is None else {**plan, "money": config.price_per_hour * minutes / 60}


def _flops_per_epoch(config: Config, model: ModelConfig, loader: Loader, work: Work) -> float:
    """Of the first epoch; the first PLANNED_BATCHES of its batches stand for all."""
    plan = loader.plan(0)
    some = [loader.packed(chosen) for chosen in plan[:PLANNED_BATCHES]]
    flops = sum(step_flops(model, micro_batches(batch, config, default_device()), work) for batch in some)
    return flops * len(plan) / len(some)


@dataclass(frozen=True)
class AtHand:
    """The memory that a plan is held against."""

    total_gib: float
    free_gib: float
    whose: str
    """"the machine has {gib} GiB", for the message."""


def memory_at_hand(config: Config) -> AtHand:
    """What memory_limit_gib says, or else the memory of the device."""
    if config.memory_limit_gib is not None:
        return AtHand(config.memory_limit_gib, config.memory_limit_gib, "memory_limit_gib is {gib} GiB")
    device = default_device()
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / 2**30
        return AtHand(total, total, "the card has {gib} GiB")
    machine = memory()
    return AtHand(machine.total_gib, machine.available_gib, "the machine has {gib} GiB")


def refuse_what_does_not_fit(plan: Mapping[str, Any], at_hand: AtHand, progress: Progress) -> None:
    """Before the weights are loaded, not after the first hour.

    Raises:
        MachineError: More memory is needed than there is in all.
    """
    needed = plan["memory_gib"]["peak"]
    if needed > at_hand.total_gib:
        has = tr(at_hand.whose, gib=f"{at_hand.total_gib:.1f}")
        raise MachineError(
            tr("this training needs {memory}, and {has}", memory=_memory_in_words(plan), has=has),
            where=tr("the plan, memory_gib"),
            fix=tr("lower micro_batch_tokens or cutoff_len, or take a smaller model"),
        )
    if needed > at_hand.free_gib:
        text = "about {needed} GiB are needed and {free} GiB are free now: close other programs"
        progress.note(tr(text, needed=f"{needed:.1f}", free=f"{at_hand.free_gib:.1f}"))


def _memory_in_words(plan: Mapping[str, Any]) -> str:
    """The peak, and what makes it up, the largest first."""
    parts = sorted(((gib, kind) for kind, gib in plan["memory_gib"].items() if kind != "peak"), reverse=True)
    shown = tr(", ").join(f"{tr(kind)} {gib:.2f}" for gib, kind in parts)
    return tr("about {gib} GiB ({parts})", gib=f"{plan['memory_gib']['peak']:.1f}", parts=shown)


def _tuning_in_words(plan: Mapping[str, Any]) -> dict[str, str]:
    if plan["tuning"]["method"] == "full":
        return {"trainable": tr("{n} parameters (all)", n=f"{plan['trainable_parameters']:,}")}
    return in_words(plan["tuning"], plan["trainable_parameters"], plan["parameters"], plan["layers"])


def plan_in_words(plan: Mapping[str, Any]) -> dict[str, str]:
    """The promise as a person reads it."""
    counts = {
        key: f"{plan[key]:,}" for key in ("rows", "kept", "dropped", "cut", "tokens", "supervised_tokens", "steps")
    }
    words = {
        "rows": tr("{kept} of {rows} ({dropped} dropped, {cut} cut)", **counts),
        "tokens": tr("{tokens}, {supervised_tokens} of them learnt", **counts),
        "steps": tr("{steps} ({epochs} epochs)", **counts, epochs=f"{plan['epochs']:.2f}"),
        **_tuning_in_words(plan),
        "memory": _memory_in_words(plan),
        "time": tr(
            "about {minutes} minutes, at {speed} TFLOP/s measured",
            minutes=f"{plan['minutes']:.1f}",
            speed=f"{plan['peak_tflops']:.2f}",
        ),
    }
    if "money" in plan:
        words["money"] = tr("about {amount}", amount=f"{plan['money']:.2f}")
    return {tr(name): text for name, text in words.items()}


# looking at held-out problems -----------------------------------------------------------------------------------------


def validator(config: Config, model: Decoder, tokenizer: Tokenizer, run: Run, progress: Progress) -> Validate:
    """step -> loss on held-out rows and accuracy on held-out problems; the answers go to samples.jsonl."""
    held_out = _held_out_rows(config, tokenizer, progress)
    if held_out is not None:
        for line in held_out.report.lines():
            progress.note(tr("held out: {line}", line=line))
    batches = _as_batches(held_out.rows, config) if held_out is not None else []
    problems = _held_out_problems(config)

    def validate(step: int) -> dict[str, float]:
        metrics = {"loss/validation": mean_loss(model, batches, config)} if batches else {}
        if not problems:
            return metrics
        sampling = Sampling(max_new_tokens=config.max_new_tokens)
        rollouts = attempt(Engine(model, tokenizer), problems, sampling, system=config.system)
        for rollout in rollouts:
            run.sample({"step": step, **_sample_record(rollout)})
        right, asked = sum(r.verdict.status == "right" for r in rollouts), len(rollouts)
        low, high = wilson(right, asked)
        return {
            **metrics,
            "accuracy/validation": right / asked,
            "accuracy/validation_low": low,
            "accuracy/validation_high": high,
            "accuracy/validation_n": asked,
        }

    return validate


def _sample_record(rollout: Rollout) -> dict[str, Any]:
    return {
        "task": rollout.problem.task,
        "id": rollout.problem.id,
        "question": rollout.problem.prompt,
        "answer": rollout.problem.answer,
        "completion": rollout.completion.text,
        "status": rollout.verdict.status,
    }


def _held_out_specs(config: Config) -> tuple[DataSpec, ...]:
    return config.validation or tuple(spec for spec in config.data if spec.task is not None)


def _held_out_rows(config: Config, tokenizer: Tokenizer, progress: Progress) -> Prepared | None:
    specs = _held_out_specs(config)
    if not specs or not config.validation_rows:
        return None
    each = max(1, config.validation_rows // len(specs))
    conversations = []
    for spec in specs:
        some = spec.model_copy(update={"n": min(spec.n or each, each)})
        conversations += conversations_of(some, config, "validation", progress)
    return prepare(conversations, tokenizer, cutoff_len=config.cutoff_len, max_lost_answers=1.0, progress=progress)


def _held_out_problems(config: Config) -> list[tuple[Any, Problem]]:
    specs = [spec for spec in _held_out_specs(config) if spec.task is not None]
    if not specs or not config.generate_rows:
        return []
    each = max(1, config.generate_rows // len(specs))
    drawn: list[tuple[Any, Problem]] = []
    for spec in specs:
        assert spec.task is not None
        task = task_named(spec.task)
        some = task.problems("validation", each, level=spec.level, seed=config.seed, path=spec.path)
        drawn += [(task, problem) for problem in some]
    check_references(drawn)
    return drawn


def _as_batches(rows: list[TokenRow], config: Config) -> list[Batch]:
    loader = Loader(rows, batch_tokens=config.micro_batch_tokens, seed=0)
    return [loader.packed(chosen) for chosen in loader.plan(0)]
