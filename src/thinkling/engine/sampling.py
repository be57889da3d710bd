"""How the next token of each request is chosen from its logits: `Sampling` says how, `choose` does it for all rows.

A row's draw is a pure function of its own logits, its seed and its place, so what else is in flight changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from thinkling.core.errors import ConfigError, NumericsError
from thinkling.core.language import tr

LOWEST_TEMPERATURE = 1e-3
"""Below it logits divided by the temperature overflow fp32; 0 says greedy."""


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens whose probability reaches this; Holtzman et al. 2020, arXiv:1904.09751."""
    max_new_tokens: int = 256
    """New tokens, not the total."""
    stop: tuple[str, ...] = ()
    """The completion ends before the first of these texts."""

    def __post_init__(self) -> None:
        problems = {
            f"temperature = {self.temperature}": self.temperature < 0 or 0 < self.temperature < LOWEST_TEMPERATURE,
            f"top_p = {self.top_p}": not 0 < self.top_p <= 1,
            f"max_new_tokens = {self.max_new_tokens}": self.max_new_tokens < 1,
            tr("top_p = {top_p} with temperature 0 has no effect", top_p=self.top_p): self.temperature == 0
            and self.top_p != 1,
            tr("stop holds an empty text"): "" in self.stop,
        }
        for what, present in problems.items():
            if present:
                fix = tr("temperature 0 or at least 0.001; 0 < top_p <= 1; max_new_tokens >= 1")
                raise ConfigError(what, where=tr("sampling"), fix=fix)


@dataclass
class Chooser:
    """What choosing needs to know of one request; `choose` writes each token that it chose into `tokens`."""

    sampling: Sampling
    seed: int = 0
    """Of this request's own random stream."""
    prompt: tuple[int, ...] = ()
    index: int = 0
    """Which request it is, for messages."""
    tokens: list[int] = field(default_factory=list)
    """Chosen so far."""


@dataclass(frozen=True)
class Choice:
    """The next token of each row."""

    tokens: list[int]
    logprobs: list[float]
    """Nats, under the unmodified policy."""


# choosing -----------------------------------------------------------------------------------------------------------


def choose(logits: Tensor, choosers: Sequence[Chooser]) -> Choice:
    """The next token of each row. logits (B, V) fp32.

    Raises:
        NumericsError: The model gave no numbers.
    """
    logsumexp = torch.logsumexp(logits, dim=-1)  # (B,)
    tokens = logits.argmax(dim=-1)  # (B,)
    drawing = [i for i, one in enumerate(choosers) if one.sampling.temperature > 0]
    if drawing:
        rows = torch.tensor(drawing, device=logits.device)
        tokens[rows] = _draw(logits[rows], [choosers[i] for i in drawing])
    logprobs = (logits.gather(1, tokens.unsqueeze(1)).squeeze(1) - logsumexp).tolist()
    for one, logprob in zip(choosers, logprobs, strict=True):
        if not math.isfinite(logprob):
            raise NumericsError(
                tr("the model's output is not a number"),
                where=tr("request {index}, token {place}", index=one.index, place=len(one.tokens) + 1),
                fix=tr(
                    "its weights are damaged, or training blew them up: take an earlier checkpoint or another model"
                ),
            )
    chosen: list[int] = tokens.tolist()
    for one, token in zip(choosers, chosen, strict=True):
        one.tokens.append(token)
    return Choice(chosen, logprobs)


def _draw(logits: Tensor, choosers: Sequence[Chooser]) -> Tensor:
    """Inverse-CDF sampling, one uniform number a row from the request's own stream: (R, V) -> (R,)."""
    temperatures = torch.tensor([s.sampling.temperature for s in choosers], device=logits.device)
    uniform = torch.tensor(
        [uniform_number(s.seed, len(s.tokens)) for s in choosers], dtype=torch.float64, device=logits.device
    )
    top_p = torch.tensor([s.sampling.top_p for s in choosers], device=logits.device)
    probabilities = torch.softmax(logits / temperatures.unsqueeze(1), dim=-1)  # (R, V)
    tokens = _inverse_cdf(probabilities, uniform)
    cut = [i for i, s in enumerate(choosers) if s.sampling.top_p < 1]
    if cut:  # only these rows take the sorted way, so that no row's draw depends on its company
        rows = torch.tensor(cut, device=logits.device)
        ordered, order = probabilities[rows].sort(dim=-1, descending=True)
        # A token stays while the probability before it has not reached top_p: the first one always does.
        before = ordered.cumsum(-1) - ordered
        ordered = ordered.masked_fill(before >= top_p[rows].unsqueeze(1), 0.0)
        tokens[rows] = order.gather(1, _inverse_cdf(ordered, uniform[rows]).unsqueeze(1)).squeeze(1)
    return tokens


def _inverse_cdf(weights: Tensor, uniform: Tensor) -> Tensor:
    """Index whose cumulated weight first exceeds uniform * total: (R, V), (R,) -> (R,)."""
    cumulated = weights.cumsum(-1, dtype=torch.float64)  # fp32 would let the last thousands of tokens share one value
    wanted = uniform * cumulated[:, -1]
    places = torch.searchsorted(cumulated, wanted.unsqueeze(1), right=True).squeeze(1)
    return places.clamp_max(weights.shape[1] - 1)


def uniform_number(seed: int, place: int) -> float:
    """A number in [0, 1), a pure function of the request's seed and the token's place (Philox, Salmon et al. 2011)."""
    bits = np.random.Philox(key=seed & (2**64 - 1), counter=place).random_raw()
    return float(int(bits) >> 11) * 2.0**-53
