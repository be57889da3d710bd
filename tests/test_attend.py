"""Packed attention: our products against torch's attention, segment by segment; no segment sees another."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thinkling.model import attend
from thinkling.model.attend import PackedAttend, packed_sdpa


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
        out = PackedAttend(starts, way)(0, *leaves)
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
    wanted = torch.autograd.grad(PackedAttend(starts, "sdpa")(0, *leaves).square().sum(), leaves)
    monkeypatch.setattr(attend, "KEEP_PROBABILITIES_UP_TO", keep)
    monkeypatch.setattr(attend, "PRODUCTS_UP_TO", products)
    given = torch.autograd.grad(PackedAttend(starts, "products")(0, *leaves).square().sum(), leaves)
    for ours, theirs in zip(given, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_a_bucket_cut_by_the_element_budget_changes_no_number(monkeypatch):
    leaves, starts = inputs([20] * 8)
    wanted = packed_sdpa(*leaves, starts.tolist())
    monkeypatch.setattr(attend, "BUCKET_ELEMENTS", 3 * 6 * 20**2)
    torch.testing.assert_close(PackedAttend(starts, "products")(0, *leaves), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["products", "sdpa"])
def test_no_segment_sees_another_and_no_token_the_future(way):
    leaves, starts = inputs([4, 5])
    out = PackedAttend(starts, way)(0, *leaves)
    out[5].sum().backward()  # the second token of the second segment
    for leaf in leaves[1:]:
        seen = leaf.grad.flatten(1).abs().sum(1) > 0
        assert seen.tolist() == [False] * 4 + [True, True, False, False, False]


def test_bf16_products_are_as_near_to_fp32_as_sdpa_in_bf16():
    leaves, starts = inputs([50, 60, 7], width=16)
    exact = packed_sdpa(*leaves, starts.tolist())
    rounded = [leaf.detach().bfloat16() for leaf in leaves]
    errors = {
        way: (PackedAttend(starts, way)(0, *rounded).float() - exact).abs().mean() for way in ("products", "sdpa")
    }
    assert errors["products"] < 2 * errors["sdpa"]


def test_no_product_is_larger_than_the_element_budget(monkeypatch):
    monkeypatch.setattr(attend, "BUCKET_ELEMENTS", 3 * 6 * 20**2)
    _, starts = inputs([20] * 8)
    assert [len(bucket.places) for bucket in attend._buckets(starts.tolist(), heads=6)] == [3, 3, 2]
