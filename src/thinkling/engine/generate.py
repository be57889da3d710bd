"""The engine: completions for a list of requests, on the trainer's own weights.

Requests hold slots of one key/value cache; whenever enough slots are free, waiting prompts are prefilled as one packed
stream and join the rows that decode, one token a step for all. Each request draws from its own random stream, a pure
function of its seed and of how many tokens it has, so what else is in flight changes no draw (it may change rounding:
matrix products are not invariant to the number of rows, docs/engine.md).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thinkling.core.errors import ConfigError
from thinkling.core.language import tr
from thinkling.core.progress import Progress, Silent
from thinkling.data.types import Completion, FinishReason
from thinkling.engine.sampling import Chooser, Sampling, check, choose, chooser
from thinkling.model.attend import CachedAttend, KeyValueCache, PrefillAttend
from thinkling.model.decoder import Decoder
from thinkling.model.packed import pack
from thinkling.tokenizer.tokenizer import Tokenizer

PREFILL_TOKENS = 16_384
"""Prompt tokens computed in one forward pass: 64 prompts of a task together, and no more memory for long ones."""


@dataclass(frozen=True)
class Request:
    """One prompt to complete."""

    tokens: tuple[int, ...]
    """The prompt."""
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    """Of this request's own random stream."""


@dataclass
class _Live:
    """A request that holds a slot."""

    index: int
    request: Request
    began: float
    chooser: Chooser
    logprobs: list[float] = field(default_factory=list)
    sampled_logprobs: list[float] = field(default_factory=list)
    finish: FinishReason | None = None

    @property
    def tokens(self) -> list[int]:
        return self.chooser.tokens


class Engine:
    """Generates with one model.

    Args:
        slots: Most sequences decoded side by side.
        peak_flops: Of this machine at the model's dtype, measured; with it, progress tells the MFU.
    """

    def __init__(
        self, model: Decoder, tokenizer: Tokenizer, *, slots: int = 64, peak_flops: float | None = None
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.slots = slots
        self.peak_flops = peak_flops
        self.refresh()

    def refresh(self) -> None:
        """Derive the decode weights anew: call it after the model's weights have changed."""
        self.packed = pack(self.model)

    def generate(self, requests: Sequence[Request], progress: Progress | None = None) -> list[Completion]:
        """One completion a request, in their order.

        Raises:
            ConfigError: A prompt is empty, or leaves no room for one new token in the model's context.
        """
        progress = progress or Silent()
        done: dict[int, Completion] = {}
        began, tokens = time.monotonic(), 0
        progress.start("generate", len(requests), "completions")
        for states in self._steps(requests):
            tokens += len(states)
            for live in states:
                if live.finish is not None:
                    done[live.index] = self._completion(live)
            progress.advance(len(done), **self._speed(tokens / (time.monotonic() - began)))
        progress.finish()
        return [done[i] for i in range(len(requests))]

    def stream(self, request: Request) -> Iterator[str]:
        """The completion's text piece by piece, as tokens come; pieces joined are the completion's text."""
        shown = ""
        final: _Live | None = None
        for state in self._steps([request]):
            final = state[0]
            text = self._text(final)
            # A character of several tokens, or the beginning of a stop text, is held back until it is certain.
            held = max((_overlap(text, s) for s in request.sampling.stop), default=0)
            certain = text[: len(text) - held] if final.finish is None else text
            if final.finish is None and certain.endswith("\ufffd"):
                continue
            if len(certain) > len(shown):
                yield certain[len(shown) :]
                shown = certain

    # the loop ---------------------------------------------------------------------------------------------------

    def _speed(self, tokens_per_s: float) -> dict[str, float]:
        """Facts for progress; FLOPs as the mathematics asks for them: 2 a matrix parameter and new token."""
        facts = {"tokens/per_s": tokens_per_s}
        if self.peak_flops is not None:
            config = self.model.config
            flops = 2.0 * (config.matrix_parameters + config.vocab_size * config.width)
            facts["mfu"] = tokens_per_s * flops / self.peak_flops
        return facts

    def _steps(self, requests: Sequence[Request]) -> Iterator[list[_Live]]:
        """After every step, the requests that got a token in it."""
        if not requests:
            return
        for i, request in enumerate(requests):
            self._check(i, request)
        # Longest work first: what is left at the end is short.
        order = sorted(
            range(len(requests)), key=lambda i: -(len(requests[i].tokens) + requests[i].sampling.max_new_tokens)
        )
        waiting = [(i, requests[i]) for i in order]
        slots = min(self.slots, len(requests))
        rows: list[_Live | None] = [None] * slots
        cache = self._cache(slots, capacity=min(64, self._longest(requests)))
        pending = torch.zeros(slots, dtype=torch.int64)  # (B,) the newest token of each row, not yet in the cache
        lengths = torch.zeros(slots, dtype=torch.int64)  # (B,) tokens of each row in the cache
        while waiting or any(rows):
            free = [b for b, live in enumerate(rows) if live is None]
            if waiting and (len(free) >= max(slots // 8, 1) or len(free) == slots):
                yield self._enter(_entering(free, waiting), rows, cache, pending, lengths)
                continue
            if not waiting and len(free) >= max(slots // 4, 1):
                kept = torch.tensor([b for b, live in enumerate(rows) if live is not None])
                cache.keep(kept.to(cache.keys.device))
                rows, pending, lengths, slots = (
                    [rows[b] for b in kept.tolist()],
                    pending[kept],
                    lengths[kept],
                    len(kept),
                )
            self._make_room(cache, int(lengths.max()) + 1, requests)
            hidden = self.packed(
                pending.to(self.model.device), lengths.to(self.model.device), CachedAttend(cache, lengths)
            )
            living = [b for b, live in enumerate(rows) if live is not None]
            lengths[living] += 1
            yield self._take(hidden, living, rows, pending)
            lengths[[b for b in living if rows[b] is None]] = 0

    def _enter(
        self,
        entering: list[tuple[int, int, Request]],
        rows: list[_Live | None],
        cache: KeyValueCache,
        pending: Tensor,
        lengths: Tensor,
    ) -> list[_Live]:
        """Prefill prompts into free slots and draw each one's first token."""
        began = time.monotonic()
        sizes = torch.tensor([len(request.tokens) for _, _, request in entering])
        starts = torch.cat([torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)])
        self._make_room(cache, int(sizes.max()), [request for _, _, request in entering])
        tokens = torch.tensor([t for _, _, request in entering for t in request.tokens])
        positions = torch.cat([torch.arange(int(n)) for n in sizes])
        attend = PrefillAttend(cache, starts, [b for b, _, _ in entering])
        hidden = self.packed(tokens.to(self.model.device), positions.to(self.model.device), attend)  # (N, D)
        for b, index, request in entering:
            own = chooser(request.sampling, request.seed, request.tokens, index, self.tokenizer)
            rows[b] = _Live(index, request, began, own)
            lengths[b] = len(request.tokens)
        changed = [b for b, _, _ in entering]
        last = hidden[(starts[1:] - 1).to(hidden.device)]  # (number entering, D)
        states = self._take(last, changed, rows, pending, aligned=True)
        lengths[[b for b in changed if rows[b] is None]] = 0
        return states

    def _take(
        self, hidden: Tensor, living: list[int], rows: list[_Live | None], pending: Tensor, *, aligned: bool = False
    ) -> list[_Live]:
        """Choose the next token of the rows `living`; those that end give up their slot.

        hidden (B, D) by slot, or (len(living), D) in the order of `living` when `aligned`.
        """
        if not aligned and len(living) < len(rows):
            hidden = hidden[torch.tensor(living, device=hidden.device)]
        states = [live for b in living if (live := rows[b]) is not None]
        choice = choose(self.packed.logits(hidden), [live.chooser for live in states])
        for i, (b, live, token) in enumerate(zip(living, states, choice.tokens, strict=True)):
            live.logprobs.append(choice.logprobs[i])
            live.sampled_logprobs.append(choice.sampled_logprobs[i])
            live.finish = self._ending(live)
            pending[b] = token
            if live.finish is not None:
                rows[b] = None
                pending[b] = 0
        return states

    def _ending(self, live: _Live) -> FinishReason | None:
        sampling = live.request.sampling
        if live.tokens[-1] in live.chooser.ends:
            return "stop"
        if sampling.stop:
            # Only the last few tokens can have completed a stop text, and a token has at least one byte.
            tail = self.tokenizer.decode(live.tokens[-(max(len(s.encode()) for s in sampling.stop) + 4) :])
            if any(s in tail for s in sampling.stop) and any(
                s in self.tokenizer.decode(live.tokens) for s in sampling.stop
            ):
                return "stop"
        full = len(live.request.tokens) + len(live.tokens) >= self.model.config.max_positions
        return "length" if len(live.tokens) >= sampling.max_new_tokens or full else None

    def _text(self, live: _Live) -> str:
        text = self.tokenizer.decode(live.tokens)
        places = [place for s in live.request.sampling.stop if (place := text.find(s)) >= 0]
        return text[: min(places)] if places else text

    def _completion(self, live: _Live) -> Completion:
        assert live.finish is not None, live
        return Completion(
            tokens=tuple(live.tokens),
            text=self._text(live),
            logprobs=tuple(live.logprobs),
            finish_reason=live.finish,
            prompt_tokens=len(live.request.tokens),
            time_s=time.monotonic() - live.began,
            sampled_logprobs=tuple(live.sampled_logprobs) if live.request.sampling.sampled_logprobs else (),
            forced=tuple(live.chooser.forced),
        )

    # room -------------------------------------------------------------------------------------------------------

    def _check(self, index: int, request: Request) -> None:
        n, context = len(request.tokens), self.model.config.max_positions
        where = tr("request {index}", index=index)
        if n == 0:
            raise ConfigError(tr("an empty prompt cannot be completed"), where=where, fix=tr("give it a text"))
        if n >= context:
            raise ConfigError(
                tr("a prompt of {n} tokens leaves no room in this model's context of {context}", n=n, context=context),
                where=where,
                fix=tr("shorten the prompt, or take a model with a longer context"),
            )
        check(request.sampling, self.tokenizer, self.model.config.vocab_size, where)

    def _longest(self, requests: Sequence[Request]) -> int:
        longest = max(len(r.tokens) + r.sampling.max_new_tokens for r in requests)
        return min(longest, self.model.config.max_positions)

    def _cache(self, slots: int, capacity: int) -> KeyValueCache:
        config = self.model.config
        return KeyValueCache(
            config.n_layers,
            slots,
            capacity,
            config.n_kv_heads,
            config.head_width,
            virtual=self.packed.virtual,
            dtype=self.model.dtype,
            device=self.model.device,
        )

    def _make_room(self, cache: KeyValueCache, needed: int, requests: Sequence[Request]) -> None:
        if needed > cache.capacity:
            cache.grow(min(max(needed, cache.capacity * 3 // 2), max(self._longest(requests), needed)))


def _entering(free: Sequence[int], waiting: list[tuple[int, Request]]) -> list[tuple[int, int, Request]]:
    """(slot, index, request) of those that are prefilled together: at least one, then as many as the limit allows."""
    chosen: list[tuple[int, int, Request]] = []
    tokens = 0
    for slot in free:
        if not waiting or (chosen and tokens + len(waiting[0][1].tokens) > PREFILL_TOKENS):
            break
        chosen.append((slot, *waiting.pop(0)))
        tokens += len(chosen[-1][2].tokens)
    return chosen


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` could be the beginning of `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
