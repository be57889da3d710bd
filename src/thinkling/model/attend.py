"""Who sees whom: one layout object, made once a forward, called by every layer with its queries, keys and values.

`PackedAttend` carries out causal attention inside each segment of a packed stream, in one of three ways that agree:
`products` (CPU: our own matrix products with a hand-written backward), `varlen` (CUDA: torch's variable-length kernel)
and `sdpa` (one segment at a time, the oracle of both). `CachedAttend` carries out one new token a sequence against a
cache.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

KEEP_PROBABILITIES_UP_TO = 512
"""Tokens of a segment. Longer ones compute their attention probabilities (n^2) again in the backward pass."""
PRODUCTS_UP_TO = 2048
"""Tokens of a segment. Longer ones go to SDPA, whose memory does not grow with n^2."""
BUCKET_RATIO = 1.5
"""Segments whose lengths differ by no more than this are padded together: attention is a few per cent of the work."""
BUCKET_ELEMENTS = 48 * 2**20
"""Most attention probabilities of one product; above, a bucket is computed in pieces."""


class Attend(Protocol):
    """q (N, H, E), k and v (N, K, E) of layer number `layer` -> (N, H, E)."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class PackedAttend:
    """Causal attention inside each segment; segments never see each other.

    Args:
        starts: (S + 1,) segment boundaries, on the host.
        way: products, varlen or sdpa; None takes the fastest that the device of `q` has.
    """

    def __init__(self, starts: Tensor, way: str | None = None) -> None:
        assert way in (None, "products", "varlen", "sdpa"), way
        self.starts = starts.tolist()
        self.way = way
        self._buckets: list[_Bucket] | None = None

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        half = q.dtype in (torch.bfloat16, torch.float16)  # torch's variable-length kernel knows no other
        way = self.way or (("varlen" if half else "sdpa") if q.is_cuda else "products")
        if way == "sdpa":
            return packed_sdpa(q, k, v, self.starts)
        if way == "varlen":
            return _varlen(q, k, v, self.starts)
        if self._buckets is None:
            self._buckets = _buckets(self.starts, heads=q.shape[1])
        return _products(q, k, v, self._buckets)


def packed_sdpa(q: Tensor, k: Tensor, v: Tensor, starts: list[int]) -> Tensor:
    """The plain way: torch's attention, one segment after the other. Shapes as in `Attend`."""
    out = []
    for begin, end in itertools.pairwise(starts):
        one_q, one_k, one_v = (x[begin:end].transpose(0, 1).unsqueeze(0) for x in (q, k, v))  # (1, H or K, n, E)
        one = F.scaled_dot_product_attention(one_q, one_k, one_v, is_causal=True, enable_gqa=True)
        out.append(one[0].transpose(0, 1))
    return torch.cat(out)  # (N, H, E)


def _varlen(q: Tensor, k: Tensor, v: Tensor, starts: list[int]) -> Tensor:
    """torch's variable-length attention (CUDA, torch 2.12 or later); the window (-1, 0) is causal."""
    from torch.nn.attention.varlen import varlen_attn

    boundaries = torch.tensor(starts, dtype=torch.int32, device=q.device)
    longest = max(end - begin for begin, end in itertools.pairwise(starts))
    causal = (-1, 0)
    out: Tensor = varlen_attn(  # type: ignore[assignment]
        q, k, v, boundaries, boundaries, longest, longest, window_size=causal, enable_gqa=True
    )
    return out


# products: segments of like length are padded into one batch of matrix products --------------------------------------


@dataclass(frozen=True)
class _Bucket:
    """Segments computed together, padded to the longest of them; a padded cell stands for the last token of its row."""

    places: Tensor
    """(B, n) place of each cell's token in the stream."""
    tokens: Tensor
    """(R,) places of the real tokens."""
    padded: Tensor
    """(P,) which of the B*n cells are padding."""
    real: Tensor
    """(R,) which of them are tokens, in the order of `tokens`."""

    def rows(self, kv_heads: int, group: int) -> Tensor:
        """(B*K*G*n,) rows of a (N*K*G, E) tensor in the order (B, K, G, n): one gather folds heads and segments."""
        heads = torch.arange(kv_heads * group, device=self.places.device).view(1, kv_heads, group, 1)
        return (self.places[:, None, None, :] * (kv_heads * group) + heads).flatten()


def _buckets(starts: list[int], heads: int) -> list[_Bucket]:
    """Segments sorted by length and cut where the longest would exceed the shortest by BUCKET_RATIO."""
    order = sorted(range(len(starts) - 1), key=lambda s: starts[s + 1] - starts[s])
    buckets: list[_Bucket] = []
    members: list[int] = []
    for s in order:
        length = starts[s + 1] - starts[s]
        if members:
            shortest = starts[members[0] + 1] - starts[members[0]]
            full = (len(members) + 1) * heads * length**2 > BUCKET_ELEMENTS
            if length > max(shortest * BUCKET_RATIO, 32) or full:
                buckets.append(_bucket(starts, members))
                members = []
        members.append(s)
    buckets.append(_bucket(starts, members))
    return buckets


def _bucket(starts: list[int], members: list[int]) -> _Bucket:
    begins = torch.tensor([starts[s] for s in members])
    lengths = torch.tensor([starts[s + 1] - starts[s] for s in members])
    steps = torch.arange(int(lengths.max()))
    inside = steps < lengths.unsqueeze(1)  # (B, n)
    places = begins.unsqueeze(1) + torch.minimum(steps, lengths.unsqueeze(1) - 1)
    flat = inside.flatten()
    return _Bucket(
        places=places,
        tokens=places[inside],
        padded=(~flat).nonzero().squeeze(1),
        real=flat.nonzero().squeeze(1),
    )


def _products(q: Tensor, k: Tensor, v: Tensor, buckets: list[_Bucket]) -> Tensor:
    out: Tensor = _Products.apply(q, k, v, buckets)
    return out


class _Products(torch.autograd.Function):
    """Grouped-query attention as plain matrix products: the G query heads of one key head become rows of one product.

    A padded cell lies behind its segment, so that no real query sees it (causality); as a query its probabilities are
    set to zero, so that it adds nothing to the gradients.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, buckets: list[_Bucket]) -> Tensor:
        out = torch.empty_like(q)
        kept: list[Tensor | None] = []
        for bucket in buckets:
            if bucket.places.shape[1] > PRODUCTS_UP_TO:
                out[bucket.tokens] = _long_forward(q, k, v, bucket)
                kept.append(None)
                continue
            p = _probabilities(q, k, bucket)  # (B*K, G*n, n)
            _scatter(out, torch.bmm(p, _fold(v, 1, bucket)), bucket)
            kept.append(p if bucket.places.shape[1] <= KEEP_PROBABILITIES_UP_TO else None)
        ctx.buckets = buckets
        ctx.kept = kept if any(ctx.needs_input_grad) else None
        ctx.save_for_backward(q, k, v)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v = ctx.saved_tensors
        d_out = gradients[0].contiguous()
        d_q, d_k, d_v = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for bucket, kept in zip(ctx.buckets, ctx.kept, strict=True):
            if bucket.places.shape[1] > PRODUCTS_UP_TO:
                parts = _long_backward(q, k, v, d_out, bucket)
                for whole, part in zip((d_q, d_k, d_v), parts, strict=True):
                    whole[bucket.tokens] = part
            else:
                parts = _bucket_backward(q, k, v, d_out, bucket, kept)
                for whole, part in zip((d_q, d_k, d_v), parts, strict=True):
                    _scatter(whole, part, bucket)
        ctx.kept = None
        return d_q, d_k, d_v, None


def _fold(x: Tensor, group: int, bucket: _Bucket) -> Tensor:
    """The bucket's cells of x (N, K*G, E) as (B*K, G*n, E)."""
    b, n = bucket.places.shape
    heads, e = x.shape[1], x.shape[2]
    rows = x.reshape(-1, e).index_select(0, bucket.rows(heads // group, group))
    return rows.view(b * heads // group, group * n, e)


def _scatter(whole: Tensor, folded: Tensor, bucket: _Bucket) -> None:
    """Put the real cells of `folded` (B*K, G*n, E) into their places of `whole` (N, K*G, E)."""
    b, n = bucket.places.shape
    heads, e = whole.shape[1], whole.shape[2]
    cells = folded.view(b, heads, n, e).transpose(1, 2)  # (B, n, K*G, E)
    if len(bucket.padded):
        cells = cells.reshape(b * n, heads, e).index_select(0, bucket.real)
    whole.index_copy_(0, bucket.tokens, cells.reshape(-1, heads, e))


def _probabilities(q: Tensor, k: Tensor, bucket: _Bucket) -> Tensor:
    """(B*K, G*n, n) attention probabilities, causal, in the dtype of q; rows of padded queries are 0."""
    b, n = bucket.places.shape
    heads, kv_heads, e = q.shape[1], k.shape[1], q.shape[2]
    group = heads // kv_heads
    scores = torch.bmm(_fold(q, group, bucket).mul_(e**-0.5), _fold(k, 1, bucket).transpose(1, 2))
    future = torch.ones(n, n, dtype=torch.bool, device=q.device).triu_(1)
    scores.view(-1, group, n, n).masked_fill_(future, float("-inf"))
    p = torch.softmax(scores, dim=-1)
    if len(bucket.padded):
        row, place = bucket.padded // n, bucket.padded % n
        p.view(b, kv_heads, group, n, n)[row, :, :, place] = 0
    return p


def _bucket_backward(
    q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, bucket: _Bucket, kept: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k, v in the bucket's cells: (B*K, G*n, E), (B*K, n, E), (B*K, n, E)."""
    p = kept if kept is not None else _probabilities(q, k, bucket)  # (B*K, G*n, n)
    group = q.shape[1] // k.shape[1]
    d_o = _fold(d_out, group, bucket)  # (B*K, G*n, E)
    d_v = torch.bmm(p.transpose(1, 2), d_o)  # (B*K, n, E), summed over the group by the product
    d_scores = torch._softmax_backward_data(torch.bmm(d_o, _fold(v, 1, bucket).transpose(1, 2)), p, -1, p.dtype)
    d_scores *= q.shape[2] ** -0.5
    d_q = torch.bmm(d_scores, _fold(k, 1, bucket))  # (B*K, G*n, E)
    d_k = torch.bmm(d_scores.transpose(1, 2), _fold(q, group, bucket))  # (B*K, n, E)
    return d_q, d_k, d_v


def _bucket_starts(bucket: _Bucket) -> list[int]:
    """Boundaries of the bucket's segments within its own tokens."""
    rows = torch.bincount(bucket.real // bucket.places.shape[1], minlength=bucket.places.shape[0])
    return [0, *rows.cumsum(0).tolist()]


def _long_forward(q: Tensor, k: Tensor, v: Tensor, bucket: _Bucket) -> Tensor:
    return packed_sdpa(q[bucket.tokens], k[bucket.tokens], v[bucket.tokens], _bucket_starts(bucket))


def _long_backward(q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, bucket: _Bucket) -> tuple[Tensor, ...]:
    with torch.enable_grad():
        own_q, own_k, own_v = (x[bucket.tokens].detach().requires_grad_() for x in (q, k, v))
        out = packed_sdpa(own_q, own_k, own_v, _bucket_starts(bucket))
    return torch.autograd.grad(out, (own_q, own_k, own_v), d_out[bucket.tokens])


# decoding ------------------------------------------------------------------------------------------------------------


class KeyValueCache:
    """Keys and values of B sequences of at most T tokens, per layer (B, K, T, E)."""

    def __init__(self, n_layers: int, slots: int, capacity: int, kv_heads: int, head_width: int, **like: Any) -> None:
        shape = (n_layers, slots, kv_heads, capacity, head_width)
        self.keys = torch.zeros(shape, **like)
        self.values = torch.zeros(shape, **like)

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def fill(self, layer: int, k: Tensor, v: Tensor, slots: Tensor, places: Tensor) -> None:
        """Store k, v (N, K, E) of N tokens at their (slot, place), both (N,)."""
        self.keys[layer][slots, :, places] = k
        self.values[layer][slots, :, places] = v

    def keep(self, slots: Tensor) -> None:
        """Drop all other sequences; those kept are numbered anew in this order."""
        self.keys = self.keys[:, slots].contiguous()
        self.values = self.values[:, slots].contiguous()

    def grow(self, capacity: int) -> None:
        """Room for `capacity` tokens a sequence."""
        wider = (*self.keys.shape[:3], capacity - self.capacity, *self.keys.shape[4:])
        self.keys = torch.cat([self.keys, self.keys.new_zeros(wider)], dim=3)
        self.values = torch.cat([self.values, self.values.new_zeros(wider)], dim=3)


class PrefillAttend:
    """Packed causal attention over whole prompts, storing their keys and values in the cache on the way.

    Args:
        slots: One slot of the cache a segment.
    """

    def __init__(self, cache: KeyValueCache, starts: Tensor, slots: list[int]) -> None:
        self.packed = PackedAttend(starts)
        self.cache = cache
        lengths = starts[1:] - starts[:-1]
        self.slots = torch.repeat_interleave(torch.tensor(slots), lengths).to(cache.keys.device)  # (N,)
        self.places = torch.cat([torch.arange(int(n)) for n in lengths]).to(cache.keys.device)  # (N,)

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.fill(layer, k, v, self.slots, self.places)
        return self.packed(layer, q, k, v)


class CachedAttend:
    """One new token for each of the cache's B sequences: N = B, row b continues sequence b.

    Args:
        lengths: (B,) tokens already in the cache of each sequence; the new one is stored there.
    """

    def __init__(self, cache: KeyValueCache, lengths: Tensor) -> None:
        self.cache = cache
        self.lengths = lengths.to(cache.keys.device)
        self.rows = torch.arange(len(lengths), device=cache.keys.device)
        # A multiple of 16 leaves the shapes of the products alone for some steps.
        self.visible = min(-(-(int(lengths.max()) + 1) // 16) * 16, cache.capacity)
        steps = torch.arange(self.visible, device=cache.keys.device)
        mask = steps <= self.lengths.unsqueeze(1)  # (B, T)
        self.bias = torch.zeros(mask.shape, dtype=cache.keys.dtype, device=mask.device).masked_fill_(
            ~mask, float("-inf")
        )

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.cache.fill(layer, k, v, self.rows, self.lengths)
        keys = self.cache.keys[layer][:, :, : self.visible]  # (B, K, T, E)
        values = self.cache.values[layer][:, :, : self.visible]
        b, heads, e = q.shape
        folded = q.view(b, k.shape[1], heads // k.shape[1], e)  # (B, K, G, E): the group as rows
        bias = self.bias.view(b, 1, 1, -1).expand(-1, k.shape[1], folded.shape[2], -1)
        return F.scaled_dot_product_attention(folded, keys, values, attn_mask=bias).reshape(b, heads, e)
