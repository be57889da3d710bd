"""Problems in, rollouts out: the model answers, the task's reward grades. The same path for evaluation, RL and distillation."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from thinkling.core.progress import Progress
from thinkling.core.rng import seed_from
from thinkling.core.shelf import entry
from thinkling.data.generated import instruction
from thinkling.data.types import Message, Problem, Rollout
from thinkling.engine.generate import Engine, Request, Sampling
from thinkling.tokenizer.chat import encode_prompt

QUESTION_MARKS = ("\nQuestion:", "\n问题：")
"""Stop texts: a model that invents the next question has ended its answer."""


def task_named(name: str) -> ModuleType:
    """The task of a shelf entry or of a user's own file."""
    return entry("tasks", name)


def messages_for(task: ModuleType, problem: Problem, system: str | None) -> list[Message]:
    """What the model is told: the system message where given, and the question with the task's instruction."""
    asked = Message("user", instruction(task, problem))
    return [Message("system", system), asked] if system is not None else [asked]


def attempt(
    engine: Engine,
    task: ModuleType,
    problems: Sequence[Problem],
    sampling: Sampling,
    *,
    samples: int = 1,
    seed: int = 0,
    system: str | None = None,
    progress: Progress | None = None,
) -> list[Rollout]:
    """`samples` rollouts of each problem, those of one problem side by side.

    Raises:
        Whatever the reward raises: a grader that fails is a fault to mend, not an answer that is wrong.
    """
    reward = entry("rewards", task.VERIFIER)
    requests = []
    for problem in problems:
        prompt = tuple(encode_prompt(engine.tokenizer, messages_for(task, problem, system)))
        requests += [Request(prompt, sampling, seed=seed_from("sample", seed, problem.id, i)) for i in range(samples)]
    completions = engine.generate(requests, progress)
    asked = [problem for problem in problems for _ in range(samples)]
    return [
        Rollout(
            problem, completion, reward.score(completion.text, problem.answer, finish_reason=completion.finish_reason)
        )
        for problem, completion in zip(asked, completions, strict=True)
    ]
