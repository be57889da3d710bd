"""Hand-written backward passes against autograd through the plain versions."""

from __future__ import annotations

import torch

from thinkling.model.functions import rms_norm, rms_norm_plain, rotate, rotate_plain, swiglu, swiglu_plain


def test_rms_norm_equals_the_plain_one_and_its_gradient():
    torch.manual_seed(0)
    x, weight, outer = torch.randn(7, 12), torch.randn(12), torch.randn(7, 12)
    results = []
    for function in (rms_norm, rms_norm_plain):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        out = function(*leaves, 1e-5)
        results.append([out, *torch.autograd.grad(out, leaves, outer)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


def test_rms_norm_in_bf16_rounds_as_the_plain_one():
    torch.manual_seed(0)
    x, weight = torch.randn(64, 96).bfloat16(), torch.randn(96).bfloat16()
    difference = (rms_norm(x, weight, 1e-5).float() - rms_norm_plain(x, weight, 1e-5).float()).abs()
    # Both round twice to 8 bits; they may differ by one unit in the last place of values up to 8.
    assert difference.max() <= 2.0**-5
    assert (difference > 0).float().mean() < 0.01


def test_rms_norm_of_a_frozen_weight_gives_only_the_gradient_of_x():
    x = torch.randn(3, 4, requires_grad=True)
    rms_norm(x, torch.ones(4), 1e-5).sum().backward()
    assert x.grad is not None


def test_rotation_equals_the_plain_one_and_its_gradient():
    torch.manual_seed(0)
    angles = torch.randn(5, 1, 4)
    cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
    x, outer = torch.randn(5, 3, 8), torch.randn(5, 3, 8)
    results = []
    for function in (rotate, rotate_plain):
        leaf = x.clone().requires_grad_()
        out = function(leaf, cos, sin)
        results.append([out, *torch.autograd.grad(out, leaf, outer)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


def test_rotation_keeps_every_length():
    angles = torch.randn(5, 1, 4)
    x = torch.randn(5, 3, 8)
    turned = rotate(x, torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin())
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))


def test_swiglu_equals_the_plain_one_and_its_gradient():
    torch.manual_seed(0)
    gate, up, outer = torch.randn(7, 12), torch.randn(7, 12), torch.randn(7, 12)
    results = []
    for function in (swiglu, swiglu_plain):
        leaves = [gate.clone().requires_grad_(), up.clone().requires_grad_()]
        out = function(*leaves)
        results.append([out, *torch.autograd.grad(out, leaves, outer)])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)
