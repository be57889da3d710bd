"""The promise of a fine-tuning: rows, tokens, steps, memory, minutes and money, told before the weights are loaded."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from thinkling.core.device import compute_dtype, default_device, memory
from thinkling.core.errors import MachineError
from thinkling.core.language import tr
from thinkling.core.progress import Progress
from thinkling.data.loader import Loader
from thinkling.data.prepare import Prepared
from thinkling.engine.coverage import Coverage, Work, advice, coverage, in_words
from thinkling.engine.gradient import micro_batches, step_flops
from thinkling.engine.measures import peak_of_shapes, products
from thinkling.engine.plan import MemoryPlan, training_memory, training_minutes
from thinkling.model.config import ModelConfig
from thinkling.model.decoder import Decoder
from thinkling.stages._sft_settings import Config

USUAL_RANK = 16
"""What a larger rank costs is told beside this one."""
PLANNED_BATCHES = 64
"""Batches laid out to foresee the time of all: enough for a per cent, in well under a second."""


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
    epochs, shares, longest = loader.epochs_in(steps), loader.shares(steps), prepared.rows.longest
    memory_for = functools.partial(
        training_memory, model, compute_dtype(device), longest=longest, head_chunk=config.head_chunk
    )

    def foreseen(one: Coverage) -> tuple[MemoryPlan, float]:
        needed = memory_for(micro_batch_tokens=min(config.micro_batch_tokens, loader.largest()), coverage=one)
        flops = _flops_per_epoch(config, model, loader, one.work)
        return needed, training_minutes(flops * epochs, peak_flops, device)

    needed, minutes = foreseen(found)
    fitting = largest_that_fits(
        lambda tokens: memory_for(micro_batch_tokens=tokens, coverage=found).as_dict()["peak"],  # as what is refused
        memory_at_hand(config).total_gib,
        least=longest,
        most=loader.largest(),
    )
    tuning = {**found.as_dict(), "advice": advice(config.tuning, len(prepared.rows))}
    if found.facts.get("rank", 0) > USUAL_RANK:
        needed_then, minutes_then = foreseen(coverage(model, {**config.tuning, "rank": USUAL_RANK}))
        peak = needed_then.as_dict()["peak"]
        tuning["at_usual_rank"] = {"rank": USUAL_RANK, "peak_gib": peak, "minutes": minutes_then}
    plan = {
        "rows": report.rows,
        "kept": report.kept,
        "dropped": report.dropped,
        "cut": report.cut,
        "tokens": round(sum(share.tokens for share in shares)),
        "supervised_tokens": round(sum(share.supervised_tokens for share in shares)),
        "longest_row": longest,
        "steps": steps,
        "epochs": epochs,
        **({"fill": loader.fill()} if config.batch_tokens is not None else {}),
        "sources": [
            {"source": source.label, "weight": float(source.weight), "kept": len(source.rows)}
            | {name: round(number) for name, number in asdict(share).items()}
            for source, share in zip(prepared.rows.sources, shares, strict=True)
        ],
        "parameters": found.parameters,
        "trainable_parameters": found.trained,
        "layers": model.n_layers,
        "tuning": tuning,
        "memory_gib": needed.as_dict(),
        "micro_batch_tokens_that_fit": fitting,
        "peak_tflops": peak_flops / 1e12,
        "minutes": minutes,
    }
    if config.price_per_hour is not None:
        plan["money"] = config.price_per_hour * minutes / 60
    if config.minutes_at_hand is not None:
        plan["minutes_at_hand"] = config.minutes_at_hand
    return plan


def largest_that_fits(gib_of: Callable[[int], float], limit_gib: float, *, least: int, most: int) -> int | None:
    """The largest number of tokens whose memory is within the limit; None where the least is not.

    Args:
        gib_of: Memory of so many tokens; it never falls with them.
    """
    if gib_of(least) > limit_gib:
        return None
    while least < most:
        middle = (least + most + 1) // 2
        least, most = (middle, most) if gib_of(middle) <= limit_gib else (least, middle - 1)
    return least


def _flops_per_epoch(config: Config, model: ModelConfig, loader: Loader, work: Work) -> float:
    """Of the first epoch; the first PLANNED_BATCHES of its batches stand for all."""
    some = [loader.packed(chosen) for chosen in itertools.islice(loader.plan(0), PLANNED_BATCHES)]
    flops = sum(step_flops(model, micro_batches(batch, config, default_device()), work) for batch in some)
    return flops * loader.n_batches(1) / len(some)


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
            fix=_what_would_fit(plan["micro_batch_tokens_that_fit"]),
        )
    if needed > at_hand.free_gib:
        text = "about {needed} GiB are needed and {free} GiB are free now: close other programs"
        progress.note(tr(text, needed=f"{needed:.1f}", free=f"{at_hand.free_gib:.1f}"))


def _what_would_fit(tokens: int | None) -> str:
    if tokens is None:
        return tr("lower cutoff_len, train less of the model (tuning.method=lora), or take a smaller one")
    return tr("micro_batch_tokens={tokens} fits, with the same result; or lower cutoff_len", tokens=tokens)


def _memory_in_words(plan: Mapping[str, Any]) -> str:
    """The peak, and what makes it up, the largest first."""
    parts = sorted(((gib, kind) for kind, gib in plan["memory_gib"].items() if kind != "peak"), reverse=True)
    shown = tr(", ").join(f"{tr(kind)} {gib:.2f}" for gib, kind in parts)
    return tr("about {gib} GiB ({parts})", gib=f"{plan['memory_gib']['peak']:.1f}", parts=shown)


def _tuning_in_words(plan: Mapping[str, Any]) -> dict[str, str]:
    if plan["tuning"]["method"] == "full":
        return {"trainable": tr("{n} parameters (all)", n=f"{plan['trainable_parameters']:,}")}
    words = in_words(plan["tuning"], plan["trainable_parameters"], plan["parameters"], plan["layers"])
    usual = plan["tuning"].get("at_usual_rank")
    if usual is not None:
        text = "{gib} GiB and {time} % of time more than rank {usual}"
        more = {
            "gib": f"{plan['memory_gib']['peak'] - usual['peak_gib']:.2f}",
            "time": f"{100 * (plan['minutes'] / usual['minutes'] - 1):.1f}",
        }
        words["cost of the rank"] = tr(text, usual=usual["rank"], **more)
    return words


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
    if "fill" in plan:
        words["fill"] = tr("{fill} of batch_tokens", fill=f"{plan['fill']:.1%}")
    if "money" in plan:
        words["money"] = tr("about {amount}", amount=f"{plan['money']:.2f}")
    if "minutes_at_hand" in plan:
        words["at hand"] = _at_hand_in_words(plan)
    return {tr(name): text for name, text in words.items()}


def _at_hand_in_words(plan: Mapping[str, Any]) -> str:
    """How long a training the minutes at hand hold, rounded down."""
    share = plan["minutes_at_hand"] / plan["minutes"] * (1 + 1e-9)  # three quarters of 4 are 3, whatever their last bit
    epochs = math.floor(10 * plan["epochs"] * share) / 10
    facts = {"minutes": f"{plan['minutes_at_hand']:g}", "epochs": f"{epochs:g}", "steps": int(plan["steps"] * share)}
    return tr("{minutes} minutes hold about {epochs} epochs, {steps} steps", **facts)


def peak_of_own_products(model: Decoder, config: Config, plan: Mapping[str, Any]) -> float:
    """FLOP/s that this machine reaches at the products of a usual micro-batch, measured within a second."""
    tokens = min(config.micro_batch_tokens, max(1, plan["tokens"] // plan["steps"]))
    share = plan["supervised_tokens"] / plan["tokens"]
    return peak_of_shapes(products(model.config, tokens, config.head_chunk, share), model.dtype, model.device)
