"""Supervised fine-tuning: the model learns to continue prompts with given answers. Only assistant tokens weigh.

The method, in order: gather conversations from files and tasks; render them with the model's own template; drop or cut
what is too long, by rule and aloud (_sft_rows.py); refuse what would teach nothing; promise rows, tokens, steps, memory
and minutes (_sft_plan.py); then train on the answers, and look at held-out problems by loss and by generation on the
way (_sft_held_out.py).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thinkling.core.device import compute_dtype, default_device, measure_peak
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run, referred
from thinkling.data.loader import Loader
from thinkling.data.prepare import Prepared
from thinkling.engine.coverage import Coverage, advice, coverage
from thinkling.engine.keeping import refuse_another_origin
from thinkling.engine.range_test import Probe, range_test
from thinkling.engine.schedule import ScheduleConfig
from thinkling.engine.settings import refuse_length
from thinkling.engine.trainer import Speed, train
from thinkling.engine.tuning import tune
from thinkling.losses import CROSS_ENTROPY
from thinkling.model.compiled import refuse_compiling
from thinkling.model.folder import read_config
from thinkling.model.names import at_hand, resolve
from thinkling.stages._models import base_of, load_plain
from thinkling.stages._sft_held_out import HeldOut, answering, held_out_batches, hold_out
from thinkling.stages._sft_plan import (
    make_plan,
    memory_at_hand,
    peak_of_own_products,
    plan_in_words,
    refuse_what_does_not_fit,
)
from thinkling.stages._sft_rows import loader_of, prepare_data
from thinkling.stages._sft_settings import Config, DataSpec
from thinkling.tokenizer.tokenizer import Tokenizer

__all__ = ["Config", "DataSpec", "Ready", "is_longer", "make_ready", "probe_rates", "promise", "run"]

LENGTH = ("max_steps", "num_train_epochs")
"""The settings that say how long a training is."""


def run(config: Config, run: Run, progress: Progress, earlier: Mapping[str, Run]) -> None:
    """Train, and leave the trained model in the run's last checkpoint.

    Raises:
        DataError: The data would teach nothing, or loses too many answers.
        MachineError: It would not fit into memory.
        OtherRunError: What the folder holds was made from something else; nothing in it has changed.
        NumericsError, Interrupted, RunError: As `engine.trainer.train`.
    """
    began = time.monotonic()
    name = referred(config.model, earlier)
    ready = make_ready(config, name, progress)
    fingerprint = _to_share(ready, run)
    refuse_another_origin(run, fingerprint)
    refuse_what_does_not_fit(ready.plan, memory_at_hand(config), progress)
    progress.table("plan", plan_in_words(ready.plan))
    model, tokenizer, identity = load_plain(name, progress)
    fingerprint |= {"base model": identity["hash"]}
    refuse_another_origin(run, fingerprint)
    run.extend()
    if run.is_extended:
        text = "this run was made longer: from here on its schedule is that of {steps} steps"
        progress.note(tr(text, steps=ready.steps))
    run.write_plan({**ready.plan, "model": identity})  # nothing is written before: a refused run stays as it was
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
        fingerprint=fingerprint,
        held_out=held_out_batches(ready.held_out, config),
        validate=answering(ready.held_out, config, model, tokenizer, run),
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


def _to_share(ready: Ready, run: Run) -> dict[str, Any]:
    """The fingerprint, without the number of steps where the run was made longer."""
    return {key: value for key, value in ready.fingerprint.items() if key != "number of steps" or not run.is_extended}


@dataclass(frozen=True)
class Ready:
    """All that is known before the weights are loaded."""

    prepared: Prepared
    loader: Loader
    steps: int
    peak_flops: float
    coverage: Coverage
    held_out: HeldOut
    plan: dict[str, Any]
    """plan.json, without the hash of the weights."""

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What a resumed run must share, beside the weights it began with."""
        looked_at = self.held_out.digest
        return {
            "data": self.prepared.rows.digest[:16],
            **({"held-out data": looked_at[:16]} if looked_at else {}),
            "number of steps": self.steps,
        }


def make_ready(config: Config, model: str, progress: Progress) -> Ready:
    """Prepare the data for the named model, and plan.

    Raises:
        ConfigError: A setting that a training of this length cannot carry out, or a method that does not fit.
        DataError: The data would teach nothing, or loses too many answers; or what is held out cannot be read.
        ModelError: There is no such model.
    """
    folder = resolve(model, progress)
    shape = read_config(folder)
    found = coverage(shape, config.tuning)  # a method that does not fit is refused before the rows are read
    tokenizer = Tokenizer.load(folder)
    prepared = prepare_data(config, tokenizer, progress)
    for line in prepared.report.lines():
        progress.note(line)
    loader = loader_of(config, prepared.rows)
    steps = config.max_steps or loader.steps_in(config.num_train_epochs or 0)
    refuse_length(config, steps, config.validated)
    if config.torch_compile:
        refuse_compiling(default_device())
    held_out = hold_out(config, tokenizer, progress)
    device = default_device().type
    peak = measure_peak(compute_dtype(device), 0.5, device)
    for line in advice(config.tuning, len(prepared.rows)):
        progress.note(line)
    plan = make_plan(config, prepared, shape, loader, steps, peak, found)
    for source in plan["sources"]:
        if not source["rows"]:  # its weight is too small for a training of this length
            progress.note(tr("{source} gives no row to this training", source=source["source"]))
    return Ready(prepared, loader, steps, peak, found, held_out, plan)


def is_longer(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether these settings (as resolved) are those of an earlier training but for more steps or more epochs.

    The learning rate and its schedule may differ as well: whoever goes on says how.
    """
    rates = {*ScheduleConfig.model_fields, "learning_rate"}
    same = all(then.get(key) == now.get(key) for key in {*then, *now} - rates - set(LENGTH))
    return same and any(then.get(key) and now.get(key) and now[key] > then[key] for key in LENGTH)


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
