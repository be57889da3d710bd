"""The gradient of a batch: its micro-batches forward and backward, one after the other, into one sum (law 1).

Each loss term is divided by its count over the whole batch, so that the parts add up exactly to the gradient of the
whole; the head forms its gradient chunk by chunk in the forward pass. `row_losses` is the same without a gradient.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinkling.core.device import moved
from thinkling.core.errors import NumericsError
from thinkling.data.batch import Batch
from thinkling.data.prefixes import share
from thinkling.engine.coverage import Work, full_work
from thinkling.engine.measures import LossByKind, StepClock
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.settings import TrainerConfig
from thinkling.losses import Loss
from thinkling.model.attend import PackedAttend
from thinkling.model.config import ModelConfig
from thinkling.model.decoder import Decoder
from thinkling.model.head import HeadOutput, gradient_in_forward, predictions


def micro_batches(batch: Batch, config: TrainerConfig, device: torch.device) -> list[Batch]:
    """What a step computes: its batch in parts that fit, the common beginnings in each part computed once.

    They stay on the host, where they are counted and their layouts planned; `device` is where they will be computed. On
    CUDA nothing is shared: torch's variable-length kernel has not been tried with prefixes.
    """
    parts = batch.split(config.micro_batch_tokens)
    return [share(part) if device.type == "cpu" else part for part in parts]


def step_flops(config: ModelConfig, micros: list[Batch], work: Work | None = None) -> float:
    """FLOPs of one training step as it is computed, of full fine-tuning where no `work` is given.

    Full: 6 per matrix parameter and token, the head where a prediction counts, and attention (12 H E a pair of tokens
    that see each other).
    """
    work = work or full_work(config)
    tokens = sum(micro.n_tokens for micro in micros)
    supervised = sum(len(micro.targets()) for micro in micros)
    # A token at position p sees p + 1 tokens, its prefixes' included; counted as causal attention is, half a square.
    pairs = sum(float(micro.positions.sum()) + micro.n_tokens / 2 for micro in micros)
    return work.per_token * tokens + work.per_prediction * supervised + work.per_pair * pairs


def accumulate(
    model: Decoder,
    batch: Batch,
    loss: Loss,
    optimizer: MasterAdamW,
    config: TrainerConfig,
    *,
    clock: StepClock | None = None,
    by_kind: LossByKind | None = None,
) -> tuple[dict[str, float], list[Batch]]:
    """Add the gradient of the whole batch's loss to the optimizer's sums.

    A card is asked for nothing before all of it is queued there: the losses of all micro-batches are read at the end.

    Args:
        clock: Told when forward and backward begin.
        by_kind: Told what the head says of each counted token.

    Returns:
        Each term's mean, and the micro-batches that were computed.

    Raises:
        NumericsError: A loss is not a number; names the rows.
    """
    counts = loss.counts(batch)
    assert all(count > 0 for count in counts.values()), (
        f"a batch without anything to learn reached the trainer: {counts}"
    )
    micros = micro_batches(batch, config, model.device)
    sums: list[dict[str, Tensor]] = []
    for micro in micros:
        if clock:
            clock.enter("forward")
        sums.append(_micro_batch(model, micro, loss, counts, optimizer, config, clock, by_kind))
    totals = dict.fromkeys(counts, 0.0)
    for micro, told in zip(micros, _read(sums), strict=True):
        _refuse_broken_loss(model, micro, told)
        for term, value in told.items():
            totals[term] += value
    return {term: total / counts[term] for term, total in totals.items()}, micros


def _read(sums: list[dict[str, Tensor]]) -> list[dict[str, float]]:
    """The numbers in these 0-dimensional tensors, which a device is asked for once."""
    values = [value for one in sums for value in one.values()]
    numbers = iter(torch.stack(values).tolist() if values else [])
    return [{term: next(numbers) for term in one} for one in sums]


def _refuse_broken_loss(model: Decoder, micro: Batch, sums: Mapping[str, float]) -> None:
    if all(math.isfinite(value) for value in sums.values()):
        return
    refuse_broken_weights(model, f"rows {', '.join(micro.sources)}")
    raise NumericsError(
        f"the loss is not a number ({', '.join(f'{k} = {v}' for k, v in sums.items())})",
        where=f"rows {', '.join(micro.sources)}",
        fix="look at these rows with `thinkling data show`; lower learning_rate; the last good checkpoint is kept",
    )


def _micro_batch(
    model: Decoder,
    micro: Batch,
    loss: Loss,
    counts: Mapping[str, float],
    optimizer: MasterAdamW,
    config: TrainerConfig,
    clock: StepClock | None,
    by_kind: LossByKind | None,
) -> dict[str, Tensor]:
    """Forward and backward of one micro-batch, which lies on the host; returns the terms' sums, fp64 on the device."""
    if not len(micro.targets()):
        return {}
    chosen = _predicting(model, micro)  # (M, D)
    counted = micro.supervised()
    supervised = counted.to(model.device)
    sums: dict[str, Tensor] = {}

    def chunk_loss(out: HeadOutput, low: int, high: int) -> Tensor:
        terms = loss.sums(out, supervised.rows(low, high))
        for term, value in terms.items():
            sums[term] = value.detach().double() + sums.get(term, 0.0)
        return torch.stack([loss.coefficients[t] * value / counts[t] for t, value in terms.items()]).sum()

    head = model.lm_head.weight
    said, d_chosen = gradient_in_forward(
        chosen.detach(),
        head.detach(),
        supervised.tokens,
        chunk_loss,
        chunk=config.head_chunk,
        needs=loss.needs,
        add_weight_gradient=functools.partial(optimizer.add, head) if optimizer.trains(head) else None,
    )
    if by_kind:
        by_kind.add(said, counted)
    if clock:
        clock.enter("backward")
    chosen.backward(d_chosen)
    return sums


def _predicting(model: Decoder, micro: Batch) -> Tensor:
    """(M, D) hidden states at the places that predict the counted tokens of a micro-batch on the host.

    The places are found there: a card that is asked how many weights are not 0 has to finish all it has queued first.
    """
    there = micro.to(model.device)
    hidden: Tensor = model(there.tokens, there.positions, PackedAttend(micro.starts, micro.prefixes))  # (N, D)
    return hidden[moved(micro.predictors(), model.device)]


@torch.no_grad()
def refuse_broken_weights(model: Decoder, where: str) -> None:
    """Tell weights that are broken from rows that break good ones: no row can mend the former.

    Raises:
        NumericsError: A weight is not finite.
    """
    for name, weight in model.named_parameters():
        # One pass that makes no tensor, a tenth of isfinite's time: what is not a number is the least and the greatest.
        if not all(bool(torch.isfinite(extreme)) for extreme in torch.aminmax(weight)):
            raise NumericsError(
                f"{name} holds a weight that is not a number",
                where=where,
                fix="lower learning_rate (the last good checkpoint is kept); at the first step, take another model",
            )


@dataclass(frozen=True)
class RowLosses:
    """What fixed rows cost under one model."""

    nats: Tensor
    """(R,) float64, of the counted tokens of each row by their weights."""
    weights: Tensor
    """(R,) float64, of these tokens together."""

    @property
    def mean(self) -> float:
        """Nats per counted token."""
        return float(self.nats.sum() / self.weights.sum())


@torch.no_grad()
def row_losses(model: Decoder, batches: Sequence[Batch], config: TrainerConfig) -> RowLosses:
    """The loss of each row of fixed batches, in their order; R segments in all."""
    n_rows = sum(batch.n_segments for batch in batches)
    nats, weights = torch.zeros(n_rows, dtype=torch.float64), torch.zeros(n_rows, dtype=torch.float64)
    before = 0
    for batch in batches:
        numbers = before + torch.arange(batch.n_segments)  # (S,)
        before += batch.n_segments
        rows = numbers.repeat_interleave(batch.starts.diff())  # (N,)
        for micro in micro_batches(replace(batch, columns={"row": rows}), config, model.device):
            kept = micro.supervised()
            chosen, targets = _predicting(model, micro), moved(kept.tokens, model.device)  # (M, D), (M,)
            out = predictions(chosen, model.lm_head.weight, targets, chunk=config.head_chunk)
            row = kept.columns["row"]  # (M,)
            nats.index_add_(0, row, -(out.logprobs.cpu() * kept.loss_weights).double())
            weights.index_add_(0, row, kept.loss_weights.double())
    return RowLosses(nats, weights)


def mean_loss(model: Decoder, batches: Sequence[Batch], config: TrainerConfig) -> float:
    """Nats per counted token over fixed batches."""
    return row_losses(model, batches, config).mean
