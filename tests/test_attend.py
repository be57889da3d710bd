"""Packed attention: our products against torch's attention, segment by segment; no segment sees another."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkling.model import attend
from thinkling.model.attend import PackedAttend


def inputs(lengths, heads=6, kv_heads=2, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    n = sum(lengths)
    shapes = ((n, heads, width), (n, kv_heads, width), (n, kv_heads, width))
    q, k, v = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    return (q, k, v), torch.tensor([0, *lengths]).cumsum(0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=9), st.sampled_from([(6, 2), (4, 4), (3, 1)]))
def test_products_equal_sdpa_forward_and_backward_for_any_lengths(lengths, heads):
    gradients, outputs = [], []
    for way in ("products", "sdpa"):
        leaves, starts = inputs(lengths, *heads)
        out = PackedAttend(starts, way=way)(0, *leaves)
        out.backward(torch.cos(torch.arange(out.numel()).view_as(out)))
        outputs.append(out.detach())
        gradients.append([leaf.grad for leaf in leaves])
    torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("keep", "products"), [(0, 2048), (0, 16)])
def test_recomputing_and_falling_back_change_no_number(monkeypatch, keep, products):
    lengths = [9, 30, 31, 64]
    leaves, starts = inputs(lengths)
    wanted = torch.autograd.grad(PackedAttend(starts, way="sdpa")(0, *leaves).square().sum(), leaves)
    monkeypatch.setattr(attend, "KEEP_PROBABILITIES_UP_TO", keep)
    monkeypatch.setattr(attend, "PRODUCTS_UP_TO", products)
    given = torch.autograd.grad(PackedAttend(starts, way="products")(0, *leaves).square().sum(), leaves)
    for ours, theirs in zip(given, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_bucket_cut_by_the_element_budget_changes_no_number(monkeypatch):
    leaves, starts = inputs([20] * 8)
    wanted = PackedAttend(starts, way="sdpa")(0, *leaves)
    monkeypatch.setattr(attend, "BUCKET_ELEMENTS", 3 * 6 * 20**2)
    torch.testing.assert_close(PackedAttend(starts, way="products")(0, *leaves), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["products", "sdpa"])
def test_no_segment_sees_another_and_no_token_the_future(way):
    leaves, starts = inputs([4, 5])
    out = PackedAttend(starts, way=way)(0, *leaves)
    out[5].sum().backward()  # the second token of the second segment
    for leaf in leaves[1:]:
        seen = leaf.grad.flatten(1).abs().sum(1) > 0
        assert seen.tolist() == [False] * 4 + [True, True, False, False, False]


def test_bf16_products_are_as_near_to_fp32_as_sdpa_in_bf16():
    leaves, starts = inputs([50, 60, 7], width=16)
    exact = PackedAttend(starts, way="sdpa")(0, *leaves)
    rounded = [leaf.detach().bfloat16() for leaf in leaves]
    errors = {
        way: (PackedAttend(starts, way=way)(0, *rounded).float() - exact).abs().mean() for way in ("products", "sdpa")
    }
    assert errors["products"] < 2 * errors["sdpa"]


def test_no_product_is_larger_than_the_element_budget(monkeypatch):
    monkeypatch.setattr(attend, "BUCKET_ELEMENTS", 3 * 6 * 20**2)
    _, starts = inputs([20] * 8)
    segments = attend._segments(starts.tolist(), ())
    buckets = attend._buckets(segments, heads=6, kv_heads=2)
    assert sorted(len(bucket.places) for bucket in buckets) == [2, 3, 3]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=7))
def test_segments_are_padded_together_as_cheaply_as_any_cuts_allow(lengths):
    _, starts = inputs(lengths)
    segments = attend._segments(starts.tolist(), ())

    def cost(groups):
        padded = sum(len(group) * max(group) ** 2 for group in groups)
        return 6 * padded + attend.BUCKET_COST * len(groups)

    ordered = sorted(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attend, "BUCKET_COST", 6 * 500)
        made = attend._buckets(segments, heads=6, kv_heads=2)
        ours = 6 * sum(bucket.places.numel() * bucket.seen.shape[1] for bucket in made) + 6 * 500 * len(made)
        ways = [
            cost([ordered[a:b] for a, b in itertools.pairwise([0, *cuts, len(ordered)])])
            for n in range(len(ordered))
            for cuts in itertools.combinations(range(1, len(ordered)), n)
        ]
    assert ours == min(ways)


trees = st.lists(st.tuples(st.integers(1, 40), st.integers(-1, 6)), min_size=1, max_size=7).map(
    lambda drawn: ([length for length, _ in drawn], tuple(min(prefix, s - 1) for s, (_, prefix) in enumerate(drawn)))
)
"""Lengths of segments, and the earlier one that each continues or -1."""


def chain(prefixes, s):
    """The segments that s sees, itself the last."""
    return [*(chain(prefixes, prefixes[s]) if prefixes[s] >= 0 else []), s]


@settings(max_examples=60, deadline=None)
@given(trees, st.sampled_from([(6, 2), (4, 4), (3, 1)]), st.sampled_from(["products", "sdpa"]))
def test_continuing_a_prefix_equals_repeating_it_for_each_segment(tree, heads, way):
    lengths, prefixes = tree
    leaves, starts = inputs(lengths, *heads)
    out = PackedAttend(starts, prefixes, way=way)(0, *leaves)
    wave = torch.cos(torch.arange(out.numel()).view_as(out))
    given = torch.autograd.grad(out, leaves, wave)
    parts = []
    for s in range(len(lengths)):
        seen = torch.cat([torch.arange(starts[one], starts[one + 1]) for one in chain(prefixes, s)])
        whole = PackedAttend(torch.tensor([0, len(seen)]), way="sdpa")(0, *(leaf[seen] for leaf in leaves))
        parts.append(whole[len(seen) - lengths[s] :])
    torch.testing.assert_close(out, torch.cat(parts), rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(given, torch.autograd.grad(torch.cat(parts), leaves, wave), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("keep", "products"), [(0, 2048), (0, 16)])
def test_recomputing_and_falling_back_change_no_number_behind_a_prefix(monkeypatch, keep, products):
    leaves, starts = inputs([9, 12, 30, 5])
    prefixes = (-1, 0, 0, 1)
    wanted = torch.autograd.grad(PackedAttend(starts, prefixes, way="sdpa")(0, *leaves).square().sum(), leaves)
    monkeypatch.setattr(attend, "KEEP_PROBABILITIES_UP_TO", keep)
    monkeypatch.setattr(attend, "PRODUCTS_UP_TO", products)
    given = torch.autograd.grad(PackedAttend(starts, prefixes, way="products")(0, *leaves).square().sum(), leaves)
    for ours, theirs in zip(given, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
