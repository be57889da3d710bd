"""What supervised fine-tuning trains on: from the entries of `data` to conversations, token files and batches.

Problems of a task become conversations whose prompt is the very one that evaluation asks. Rows of a file come as a
stream and become a token file (data/cache.py); those of a task are made each time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.data.cache import FileRows, token_file
from thinkling.data.generated import training_problems
from thinkling.data.loader import Loader
from thinkling.data.mixture import Mixture, Source
from thinkling.data.prepare import Prepared, check_rules, judged, write_rows
from thinkling.data.rows import stream_conversations
from thinkling.data.tokens import TokenFile, temporary
from thinkling.data.types import Conversation, Message, Problem
from thinkling.engine.rollout import messages_for, task_named
from thinkling.stages._sft_settings import Config, DataSpec
from thinkling.tokenizer.tokenizer import Tokenizer


def conversations_of(
    spec: DataSpec, config: Config, split: str, progress: Progress | None = None
) -> Iterable[Conversation]:
    """The rows of one source, in the order they come; those of a file as a stream."""
    if spec.file is not None:
        return stream_conversations(Path(spec.file), spec.format, spec.options, n=spec.n, progress=progress)
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
    """All sources as token files, with the account of what was lost.

    Raises:
        DataError: The data would teach nothing, or loses too many answers.
        ConfigError: Rules or weights that cannot be right.
        MachineError, RunError: As `data.cache.token_file`.
    """
    check_rules(config.cutoff_len, config.too_long, config.max_lost_answers)
    sources = [
        Source(_token_file(spec, config, tokenizer, progress), spec.label, Fraction(str(spec.weight)))
        for spec in config.data
    ]
    return judged(sources, config.cutoff_len, config.max_lost_answers)


def _token_file(spec: DataSpec, config: Config, tokenizer: Tokenizer, progress: Progress) -> TokenFile:
    """Those of large files are kept between runs; what a task makes is made each time."""
    if spec.file is not None:
        return token_file(
            FileRows(Path(spec.file), spec.format, spec.options, spec.n),
            tokenizer,
            cutoff_len=config.cutoff_len,
            too_long=config.too_long,
            workers=config.data_workers,
            progress=progress,
        )
    fill = functools.partial(
        write_rows,
        conversations=conversations_of(spec, config, "train", progress),
        tokenizer=tokenizer,
        cutoff_len=config.cutoff_len,
        too_long=config.too_long,
        progress=progress,
    )
    return temporary(fill)


def loader_of(config: Config, rows: Mixture) -> Loader:
    """Batches of the size that the settings say, in the order of their seed."""
    if config.batch_size is not None:
        return Loader(rows, batch_rows=config.batch_size, seed=config.seed)
    return Loader(rows, batch_tokens=config.batch_tokens, seed=config.seed)
