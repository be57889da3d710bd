"""Looking at held-out problems while a fine-tuning trains: their loss, and by generation whether they are answered."""

from __future__ import annotations

from typing import Any

from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run
from thinkling.core.stats import wilson
from thinkling.data.batch import Batch
from thinkling.data.loader import Loader
from thinkling.data.mixture import Mixture
from thinkling.data.prepare import Prepared, prepare
from thinkling.data.types import Conversation, Problem, Rollout
from thinkling.engine.generate import Engine, Sampling
from thinkling.engine.gradient import mean_loss
from thinkling.engine.rollout import attempt, check_references, task_named
from thinkling.engine.trainer import Validate
from thinkling.model.decoder import Decoder
from thinkling.stages._sft_rows import conversations_of
from thinkling.stages._sft_settings import Config
from thinkling.tokenizer.tokenizer import Tokenizer


def validator(config: Config, model: Decoder, tokenizer: Tokenizer, run: Run, progress: Progress) -> Validate:
    """step -> loss on held-out rows and accuracy on held-out problems; the answers go to samples.jsonl."""
    held_out = held_out_rows(config, tokenizer, progress)
    if held_out is not None:
        for line in held_out.report.lines():
            progress.note(tr("held out: {line}", line=line))
    batches = _as_batches(held_out.rows, config) if held_out is not None else []
    problems = held_out_problems(config)

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


def held_out_rows(config: Config, tokenizer: Tokenizer, progress: Progress) -> Prepared | None:
    """At most validation_rows of them, as many from each source; None where nothing is held out."""
    specs = config.held_out
    if not specs or not config.validation_rows:
        return None
    each = max(1, config.validation_rows // len(specs))
    conversations: list[Conversation] = []
    for spec in specs:
        some = spec.model_copy(update={"n": min(spec.n or each, each)})
        conversations += conversations_of(some, config, "validation", progress)
    return prepare(conversations, tokenizer, cutoff_len=config.cutoff_len, max_lost_answers=1.0, progress=progress)


def held_out_problems(config: Config) -> list[tuple[Any, Problem]]:
    """At most generate_rows of them with their tasks, as many from each.

    Raises:
        DataError: A reference answer of a task cannot be read.
    """
    specs = [spec for spec in config.held_out if spec.task is not None]
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


def _as_batches(rows: Mixture, config: Config) -> list[Batch]:
    loader = Loader(rows, batch_tokens=config.micro_batch_tokens, seed=0)
    return [loader.packed(chosen) for chosen in loader.plan(0)]
