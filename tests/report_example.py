"""Run folders as two evaluations and the training between them leave them, small and made up, for tests of the report.

Before, the model writes fluent steps with false sums; after, the steps are mostly true. The same at every call.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thinkling.core.files import write_atomically, write_json
from thinkling.core.run import Run
from thinkling.core.stats import wilson, wilson_clustered

PROTOCOL = {
    "max_new_tokens": 192,
    "temperature": 0.0,
    "top_p": 1.0,
    "system": None,
    "seed": 0,
    "prompt": "the model's chat template, no examples (0-shot), the task's instruction after the question",
    "extraction": "strict: the last '#### n' line or box; flexible, beside it: the last number of the completion",
}
STATUSES = ("right", "wrong", "unparsable", "no_answer", "truncated", "timeout")


@dataclass(frozen=True)
class Kind:
    """One task of the example, with how often the model is right before and after."""

    task: str
    level: int | None
    group: str
    n: int
    before: float
    after: float

    @property
    def label(self) -> str:
        return self.task if self.level is None else f"{self.task}, level {self.level}"


KINDS = (
    Kind("sums", 2, "trained", 64, 0.05, 0.92),
    Kind("chains", 2, "trained", 64, 0.0, 0.84),
    Kind("word_problems", 2, "trained", 64, 0.02, 0.9),
    Kind("sums", 3, "harder", 32, 0.0, 0.45),
    Kind("chains", 3, "harder", 32, 0.0, 0.4),
    Kind("comparison", 2, "outside", 32, 0.25, 0.3),
    Kind("gsm8k", None, "outside", 100, 0.01, 0.03),
)


def make_recipe_run(folder: Path, *, kinds: tuple[Kind, ...] = KINDS) -> dict[str, Run]:
    """A recipe's folder with the stages before, sft and after in it."""
    write_atomically(folder / "recipe.yaml", "name: quickstart\nabout: ''\nstages: []\n")
    return {
        "before": make_evaluation(folder / "before", kinds, after=False),
        "sft": make_training(folder / "sft"),
        "after": make_evaluation(folder / "after", kinds, after=True),
    }


# evaluations ------------------------------------------------------------------------------------------------------


def make_evaluation(folder: Path, kinds: tuple[Kind, ...] = KINDS, *, after: bool) -> Run:
    """An evaluation's run folder."""
    items = [item(kind, i, after) for kind in kinds for i in range(kind.n)]
    return write_evaluation(folder, items, name="runs/quickstart/sft" if after else "smollm2-135m")


def write_evaluation(folder: Path, items: list[dict[str, Any]], name: str = "smollm2-135m") -> Run:
    """Items as a run folder, their scores counted here and not made up."""
    run = Run.start(folder, {"name": folder.name, "model": name, "max_new_tokens": 192})
    labels = list(dict.fromkeys(it["label"] for it in items))
    groups = list(dict.fromkeys(it["group"] for it in items))
    record = {
        "model": {"name": name, "parameters": 134_515_008, "hash": "c9f0e8a2b1d34e57"},
        "protocol": PROTOCOL,
        "tasks": [_score([it for it in items if it["label"] == label], label) for label in labels],
        "groups": [_score([it for it in items if it["group"] == group], group) for group in groups],
        "versus": None,
    }
    write_json(run.evaluation_file, record)
    run.items(items)
    run.finish("finished", minutes=1.2)
    run.close()
    return run


def _score(items: list[dict[str, Any]], label: str) -> dict[str, Any]:
    n = len(items)
    right = sum(it["status"] == "right" for it in items)
    flexible = sum(it["flexible_right"] for it in items)
    written = [(sum(e["is_true"] for e in it["equations"]), len(it["equations"])) for it in items]
    return {
        "label": label,
        "task": items[0]["task"],
        "level": items[0]["level"],
        "group": items[0]["group"],
        "n": n,
        "right": right,
        "score": right / n,
        "interval": list(wilson(right, n)),
        "statuses": {status: sum(it["status"] == status for it in items) for status in STATUSES},
        "flexible": {"right": flexible, "score": flexible / n, "interval": list(wilson(flexible, n))},
        "baselines": {"always '4' (commonest in training)": 0.031, "last number of the question": 0.016},
        "detectable_difference": min(1.0, 1.3 / math.sqrt(n)),
        "completion_tokens_mean": sum(it["tokens"] for it in items) / n,
        "equations": {
            "n": sum(n for _, n in written),
            "true": sum(true for true, _ in written),
            "interval": list(wilson_clustered(written)),
        },
        "finish": {"stop": n},
    }


def item(kind: Kind, number: int, after: bool) -> dict[str, Any]:
    """One answered problem. The question is the same before and after; what is written is not."""
    rng = random.Random(f"{kind.label} {number}")
    question, steps, answer = _problem(kind, rng)
    fate = random.Random(f"{kind.label} {number} {after}")
    is_right = fate.random() < (kind.after if after else kind.before)
    ending = (
        "right"
        if is_right
        else fate.choices(("wrong", "no_answer", "truncated"), (70, 22, 8) if not after else (94, 3, 3))[0]
    )
    text, equations = _written(steps, answer, ending, fate, after)
    claimed = text.rsplit("#### ", 1)[1] if "#### " in text else None
    status = "right" if claimed == answer else ending if ending != "right" else "wrong"
    return {
        "label": kind.label,
        "group": kind.group,
        "task": kind.task,
        "level": kind.level,
        "id": f"{kind.task}-{number}",
        "question": question,
        "answer": answer,
        "completion": text,
        "finish_reason": "length" if status == "truncated" else "stop",
        "status": status,
        "score": float(status == "right"),
        "extracted": claimed,
        "reason": {
            "right": f"equals {answer}",
            "wrong": f"want {answer}",
            "no_answer": "no final-answer line and no box",
        }.get(status, "the completion stops at the length limit before an answer"),
        "flexible_right": status == "right" or (not after and fate.random() < 0.02),
        "tokens": 6 + len(text) // 3,
        "equations": equations,
    }


def _problem(kind: Kind, rng: random.Random) -> tuple[str, list[tuple[int, str, int, int]], str]:
    size = 40 if (kind.level or 2) < 3 else 400
    a, b, c = rng.randint(12, size), rng.randint(3, 12), rng.randint(2, 30)
    steps = [(a, "*", b, a * b), (a * b, "+", c, a * b + c)]
    match kind.task:
        case "sums":
            return f"What is {a} * {b}?", steps[:1], str(a * b)
        case "comparison":
            return f"Which is larger, {a}.{b} or {a}.{c}?", [], f"{a}.{max(str(b), str(c))}"
        case "chains":
            return f"Work out {a} * {b} + {c}, step by step.", steps, str(a * b + c)
        case _:
            text = (
                f"A baker fills {a} trays with {b} rolls each, and has {c} rolls left over. How many rolls are there?"
            )
            return text, steps, str(a * b + c)


def _written(
    steps: list[tuple[int, str, int, int]], answer: str, ending: str, rng: random.Random, after: bool
) -> tuple[str, list[dict[str, Any]]]:
    """The completion, and its equations with their places in it."""
    text = (
        ""
        if after
        else rng.choice(
            (
                "First, we need to find the total. ",
                "To solve this, let us work step by step.\n",
                "The answer is found by ",
            )
        )
    )
    equations = []
    result = answer
    for left, sign, right, value in steps:
        wrong = ending != "right" and rng.random() < (0.6 if after else 0.9)
        claimed = value + rng.choice((-10, 10, -1, 2)) if after and wrong else rng.randint(2, 260) if wrong else value
        written = f"{left} {sign} {right} = {claimed}"
        equations.append(
            {
                "start": len(text),
                "end": len(text) + len(written),
                "text": written,
                "claimed": str(claimed),
                "actual": str(value),
                "is_true": claimed == value,
            }
        )
        text += written + "\n"
        result = str(claimed)
    if ending == "truncated":
        return text + "So we have to add the number of " * 12, equations
    if ending == "no_answer":
        return text + f"So there are {result} in total.", equations
    if ending == "wrong" and result == answer:
        result = str(len(answer) + 3)
    return text + f"#### {answer if ending == 'right' else result}", equations


# training ---------------------------------------------------------------------------------------------------------


def make_training(folder: Path, *, steps: int = 240, finished: bool = True) -> Run:
    """A training's run folder: a falling loss, a few validations, a promise and what came."""
    run = Run.start(
        folder, {"name": "sft", "model": "smollm2-135m", "learning_rate": 0.0005, "batch_tokens": 4096, "seed": 0}
    )
    write_json(
        run.plan_file,
        {
            "rows": 12000,
            "kept": 11988,
            "dropped": 12,
            "cut": 0,
            "tokens": 983_040,
            "supervised_tokens": 512_300,
            "steps": steps,
            "epochs": 1.0,
            "parameters": 134_515_008,
            "memory_gib": {
                "weights": 0.25,
                "masters": 0.5,
                "optimizer": 1.0,
                "activations": 0.6,
                "logits": 0.2,
                "peak": 2.6,
            },
            "minutes": 5.4,
        },
    )
    rng = random.Random(1)
    for step in range(1, steps + 1):
        line = {
            "loss/train": 0.16 + 1.3 * math.exp(-step / 28) + rng.gauss(0, 0.035),
            "learning_rate": 5e-4 * min(step / 12, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
            "tokens/per_s": 2600 + rng.gauss(0, 130),
        }
        if step % 40 == 0:
            line |= {
                "loss/validation": 0.19 + 1.2 * math.exp(-step / 30),
                "accuracy/validation": (right := round(11 * (1 - math.exp(-step / 70)))) / 12,
                "accuracy/validation_low": wilson(right, 12)[0],
                "accuracy/validation_high": wilson(right, 12)[1],
                "accuracy/validation_n": 12,
            }
        run.log(step, line)
    if finished:
        run.finish("finished", minutes=6.4, training_minutes=6.1, tokens=983_040, steps=steps, peak_memory_gib=2.4)
    run.close()
    return run
