"""Compare: several trainings on the same data, each with its evaluation, in one table.

Score with n and interval on held-out problems, trained parameters, peak memory, step time and minutes are read from
their run folders. Retention is measured here: the base model answers everyday questions in its own words, sampled, and
the loss of every trained model on these answers is set beside the base model's own. Nobody was trained on them, and the
rise is what the training changed where it was not asked to: the expected rise is the divergence of the trained model
from the base model, KL(base | trained), in nats a token.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from pydantic import Field

from thinkling.core.config import Config as Settings
from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.core.run import Run, read_json, referred
from thinkling.core.stats import mean_interval, wilson
from thinkling.data.batch import Batch, pack
from thinkling.data.types import Message

QUESTIONS = (
    "Why is the sky blue?",
    "Tell me a short story about a lost key.",
    "How do I make vegetable soup?",
    "What does a librarian do all day?",
    "Describe the sea to somebody who has never seen it.",
    "What is the difference between a frog and a toad?",
    "Write a polite letter to a neighbour about a noisy dog.",
    "Who was Marie Curie?",
    "Give me three tips for sleeping well.",
    "Explain what a computer program is.",
    "What happens in spring?",
    "Write a poem of four lines about rain.",
    "How does a bicycle stay upright?",
    "What should I see in Rome?",
    "Why do people tell jokes?",
    "Summarise the story of Cinderella.",
)
"""Of everyday life, none of them with a calculation in it."""


class Config(Settings):
    """Settings of one table."""

    name: str = "compare"
    before: str
    """The evaluation of the model that all trainings start from: a run folder or @STAGE."""
    trainings: tuple[str, ...] = Field(min_length=1)
    """Run folders or @STAGE, one a row of the table."""
    evaluations: tuple[str, ...] = Field(min_length=1)
    """Their evaluations, in the same order."""
    retention_tokens: int = Field(64, ge=1)
    """New tokens of each everyday answer."""
    seed: int = 0
    """Of those answers."""


def does_without(config: Config) -> tuple[str, ...]:
    """A training or its evaluation that failed is a row that says so: the others are not lost with it."""
    return (*config.trainings, *config.evaluations)


def run(config: Config, run: Run, progress: Progress, earlier: Mapping[str, Run]) -> None:
    """Measure retention, gather the rest, and write comparison.json and comparison.md.

    Raises:
        ConfigError: Not as many evaluations as trainings.
        RunError: A run is missing.
        ModelError: A trained model cannot be loaded.
    """
    began = time.monotonic()
    if len(config.trainings) != len(config.evaluations):
        raise ConfigError(
            tr("{n} trainings and {m} evaluations", n=len(config.trainings), m=len(config.evaluations)),
            where="evaluations",
            fix=tr("name one evaluation for each training, in the same order"),
        )
    before = Run.open(Path(referred(config.before, earlier)))
    trainings = [Run.open(Path(referred(name, earlier))) for name in config.trainings]
    evaluations = [Run(Path(referred(name, earlier))) for name in config.evaluations]
    faults = [fault_of(*pair) for pair in zip(trainings, evaluations, strict=True)]
    whole = [str(one.path) for one, fault in zip(trainings, faults, strict=True) if fault is None]
    base = before.evaluation()
    own, *others = retention(str(base["model"]["name"]), whole, config, progress)
    rows = [base_row(base, own)]
    for training, evaluation, fault in zip(trainings, evaluations, faults, strict=True):
        rows.append(row_of(training, evaluation, others.pop(0), own) if fault is None else lost_row(training, fault))
    run.write_comparison({"rows": rows, "questions": len(QUESTIONS)}, as_page(rows))
    run.finish("finished", minutes=(time.monotonic() - began) / 60)


# retention ------------------------------------------------------------------------------------------------------------


def retention(base: str, tuned: Sequence[str], config: Config, progress: Progress) -> list[list[float]]:
    """Nats a token of each everyday answer, under the base model and under each tuned one."""
    from thinkling.stages._models import load_model

    model, tokenizer, _ = load_model(base, progress)
    answers = everyday_answers(model, tokenizer, config, progress)
    found = [losses_on(model, answers)]
    for name in tuned:
        del model  # two of them need not be in memory
        model, _, _ = load_model(name, progress)
        found.append(losses_on(model, answers))
    return found


def everyday_answers(model: Any, tokenizer: Any, config: Config, progress: Progress) -> list[Batch]:
    """One batch an answer, the model's own words to QUESTIONS, of which the answer counts."""
    from thinkling.engine.generate import Engine, Request, Sampling
    from thinkling.tokenizer.chat import encode_prompt

    prompts = [encode_prompt(tokenizer, [Message("user", question)]) for question in QUESTIONS]
    sampling = Sampling(temperature=1.0, max_new_tokens=config.retention_tokens)
    asked = [Request(tuple(p), sampling, seed=config.seed * len(prompts) + i) for i, p in enumerate(prompts)]
    given = [list(one.tokens) for one in Engine(model.eval(), tokenizer).generate(asked, progress)]
    return [
        pack([prompt + answer], [[0.0] * len(prompt) + [1.0] * len(answer)])
        for prompt, answer in zip(prompts, given, strict=True)
    ]


def losses_on(model: Any, answers: Sequence[Batch]) -> list[float]:
    """Mean loss of each answer, nats a token."""
    from thinkling.engine.gradient import mean_loss
    from thinkling.engine.settings import TrainerConfig

    return [mean_loss(model, [answer], TrainerConfig.model_validate({})) for answer in answers]


# rows -----------------------------------------------------------------------------------------------------------------


def base_row(evaluation: Mapping[str, Any], losses: Sequence[float]) -> dict[str, Any]:
    """The model that all started from."""
    return {"method": "base", "score": pooled(evaluation), "retention": {"loss": mean(losses), "n": len(losses)}}


def fault_of(training: Run, evaluation: Run) -> str | None:
    """Why there is nothing to tell of a training; None where there is."""
    for run in (training, evaluation):
        if not run.is_finished:
            word = read_json(run.done_file) if run.done_file.exists() else {}
            return str(word.get("what") or tr("'{name}' has not finished", name=run.path.name))
    return None


def lost_row(training: Run, fault: str) -> dict[str, Any]:
    """A training of which there is nothing but the reason."""
    return {"method": training.settings()["name"], "failed": fault}


def row_of(training: Run, evaluation: Run, losses: Sequence[float], before: Sequence[float]) -> dict[str, Any]:
    """What one training cost, what it taught and what it changed elsewhere."""
    plan, done, metrics = training.plan(), read_json(training.done_file), training.metrics()
    scored = evaluation.evaluation()
    rises = [after - was for after, was in zip(losses, before, strict=True)]
    times = [line["time/step_s"] for line in metrics if "time/step_s" in line]
    return {
        "method": training.settings()["name"],
        "tuning": training.settings()["tuning"],
        "learning_rate": training.settings()["learning_rate"],
        "score": pooled(scored),
        "versus": pooled_difference(scored),
        "trained_parameters": plan["trainable_parameters"],
        "parameters": plan["parameters"],
        "peak_memory_gib": done["peak_memory_gib"],
        "step_s": {"median": median(times), "lowest": min(times), "highest": max(times), "n": len(times)},
        "retention": {
            "loss": mean(losses),
            "n": len(losses),
            "rise": mean(rises),
            "rise_interval": list(mean_interval(rises)),
        },
        "minutes": done["minutes"],
    }


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def pooled(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """All tasks of an evaluation as one score."""
    right, n = (sum(task[key] for task in evaluation["tasks"]) for key in ("right", "n"))
    return {"right": right, "n": n, "score": right / n, "interval": list(wilson(right, n))}


def pooled_difference(evaluation: Mapping[str, Any]) -> dict[str, int]:
    """How many problems were gained and lost against the base model, over all tasks."""
    tasks = evaluation["versus"]["tasks"]
    return {key: sum(task[key] for task in tasks) for key in ("gained", "lost")}


# the table ------------------------------------------------------------------------------------------------------------

RESULTS = ("learning rate", "score", "gained/lost", "retention")
COSTS = ("trained", "peak memory", "step time", "minutes")
COLUMNS = ("method", *RESULTS, *COSTS)


def cells(row: Mapping[str, Any]) -> list[str]:
    """One row of the table, a text a column."""
    none = ["–"] * len(COSTS)
    if "failed" in row:
        return [row["method"], "–", tr("failed"), "–", "–", *none]
    score, kept = row["score"], row["retention"]
    low, high = (f"{100 * bound:.0f}" for bound in score["interval"])
    shown = f"{100 * score['score']:.1f} % [{low}–{high}]"
    if row["method"] == "base":
        return [tr("base"), "–", shown, "–", f"{kept['loss']:.3f}", *none]
    below, above = kept["rise_interval"]
    return [
        row["method"],
        f"{row['learning_rate']:g}",
        shown,
        f"{row['versus']['gained']} / {row['versus']['lost']}",
        f"{kept['rise']:+.3f} [{below:.3f}, {above:.3f}]",
        f"{row['trained_parameters']:,} ({100 * row['trained_parameters'] / row['parameters']:.3g} %)",
        f"{row['peak_memory_gib']:.1f} GiB",
        f"{row['step_s']['median']:.2f} s [{row['step_s']['lowest']:.2f}–{row['step_s']['highest']:.2f}]",
        f"{row['minutes']:.1f}",
    ]


def legend(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the columns mean, and why a training is missing."""
    said = tr(
        "Score: right answers to {n} held-out problems, with the 95 % interval. Gained / lost: problems right now and "
        "wrong with the base model, and the reverse. Step time: median [fastest–slowest]. Retention: nats a token on "
        "{m} everyday answers of the base model; of the others the rise over it, with its 95 % interval.",
        n=rows[0]["score"]["n"],
        m=rows[0]["retention"]["n"],
    )
    lost = [row for row in rows if "failed" in row]
    return [said, *(tr("{name} failed: {what}", name=row["method"], what=row["failed"]) for row in lost)]


def as_page(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [[tr(name) for name in COLUMNS], ["---"] * len(COLUMNS), *map(cells, rows)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([table, *legend(rows)]) + "\n"
