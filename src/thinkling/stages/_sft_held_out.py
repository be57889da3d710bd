"""Looking at held-out problems while a fine-tuning trains: their loss, and by generation whether they are answered.

What is held out is made before the weights are loaded. It decides which checkpoint is best, when to stop and when the
rate falls, so that a resumed run must look at the very same.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run
from thinkling.core.stats import wilson
from thinkling.data.batch import Batch
from thinkling.data.loader import Loader
from thinkling.data.prepare import Prepared, prepare
from thinkling.data.types import Conversation, Problem, Rollout
from thinkling.engine.generate import Engine, Sampling
from thinkling.engine.rollout import attempt, check_references, task_named
from thinkling.engine.trainer import Validate
from thinkling.model.decoder import Decoder
from thinkling.stages._sft_rows import conversations_of
from thinkling.stages._sft_settings import Config
from thinkling.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class HeldOut:
    """What every validation of one training looks at."""

    rows: Prepared | None
    """For their loss; None where there are none."""
    problems: list[tuple[Any, Problem]]
    """To be answered, each with its task."""

    @property
    def digest(self) -> str | None:
        """Names the very tokens and weights of the rows, and questions and answers of the problems; None: nothing is
        held out. 64 hex digits."""
        if self.rows is None and not self.problems:
            return None
        asked = [(problem.task, problem.prompt, problem.answer) for _, problem in self.problems]
        named = [self.rows and self.rows.rows.digest, asked]
        return hashlib.sha256(json.dumps(named, ensure_ascii=False).encode()).hexdigest()


def hold_out(config: Config, tokenizer: Tokenizer, progress: Progress) -> HeldOut:
    """The rows and problems that the settings hold out; what was lost of them is told.

    Raises:
        DataError: The rows cannot be read or teach nothing, or a reference answer of a task cannot be read.
    """
    rows = held_out_rows(config, tokenizer, progress)
    for line in rows.report.lines() if rows is not None else ():
        progress.note(tr("held out: {line}", line=line))
    return HeldOut(rows, held_out_problems(config))


def answering(held_out: HeldOut, config: Config, model: Decoder, tokenizer: Tokenizer, run: Run) -> Validate | None:
    """step -> accuracy on the held-out problems; the answers go to samples.jsonl. None: there are none."""
    problems = held_out.problems
    if not problems:
        return None

    def validate(step: int) -> dict[str, float]:
        sampling = Sampling(max_new_tokens=config.max_new_tokens)
        rollouts = attempt(Engine(model, tokenizer), problems, sampling, system=config.system)
        for rollout in rollouts:
            run.sample({"step": step, **_sample_record(rollout)})
        right, asked = sum(r.verdict.status == "right" for r in rollouts), len(rollouts)
        low, high = wilson(right, asked)
        return {
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


def held_out_batches(held_out: HeldOut, config: Config) -> list[Batch]:
    """The rows, as many at once as one forward pass takes."""
    if held_out.rows is None:
        return []
    loader = Loader(held_out.rows.rows, batch_tokens=config.micro_batch_tokens, seed=0)
    return [loader.packed(chosen) for chosen in loader.plan(0)]
