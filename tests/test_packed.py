"""Decode weights: fused and reordered products against the modules they are derived from."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from thinkling.model import packed
from thinkling.model.attend import PackedAttend
from thinkling.model.decoder import Decoder
from thinkling.model.packed import PackedDecoder, can_prepack, pack


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_give_the_decoders_hidden_states(tiny_model, dtype):
    model = tiny_model.to(dtype)
    tokens, positions, starts = torch.arange(20), torch.arange(20), torch.tensor([0, 20])
    wanted = model(tokens, positions, PackedAttend(starts)).float()
    given = pack(model)(tokens, positions, PackedAttend(starts)).float()
    tolerance = 1e-5 if dtype == torch.float32 else 2.0**-5
    torch.testing.assert_close(given, wanted, rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(not can_prepack(), reason="this build or processor has no reordered bf16 linear")
@pytest.mark.parametrize("rows", [1, 3, 8, 64])
def test_a_reordered_product_has_the_bits_of_the_plain_one(rows):
    torch.manual_seed(0)
    weight, x = torch.randn(96, 64).bfloat16(), torch.randn(rows, 64).bfloat16()
    assert torch.equal(packed._prepacked(weight, None)(x), F.linear(x, weight))


def refusing(weight, bias):
    raise RuntimeError("no such operator")


@pytest.mark.parametrize(
    ("private", "trusted"),
    [
        (lambda weight, bias: lambda x: F.linear(x, weight), True),
        (lambda weight, bias: lambda x: F.linear(x, weight) * (1 + 2**-7), False),  # the last bit of bf16
        (refusing, False),
    ],
    ids=["agrees", "differs", "is not there"],
)
def test_the_private_operators_are_trusted_only_where_they_give_the_plain_ones_bits(monkeypatch, private, trusted):
    monkeypatch.setattr(packed, "_prepacked", private)
    assert can_prepack.__wrapped__() is trusted  # around the cache, which holds the answer of this machine


@torch.no_grad()
def test_without_the_private_operators_the_plain_ones_serve(tiny_model):
    tokens, positions, starts = torch.arange(9), torch.arange(9), torch.tensor([0, 9])
    model = tiny_model.bfloat16()
    plain = PackedDecoder(model, prepack=False)(tokens, positions, PackedAttend(starts))
    torch.testing.assert_close(plain, pack(model)(tokens, positions, PackedAttend(starts)))


@torch.no_grad()
def test_biases_of_a_bf16_model_are_packed_too(tiny_config):
    torch.manual_seed(0)
    model = Decoder(dataclasses.replace(tiny_config, family="qwen2", attention_bias=True))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 1.0)
    model = model.bfloat16()
    tokens, positions, starts = torch.arange(20), torch.arange(20), torch.tensor([0, 20])
    wanted = model(tokens, positions, PackedAttend(starts)).float()
    given = pack(model)(tokens, positions, PackedAttend(starts)).float()
    torch.testing.assert_close(given, wanted, rtol=2.0**-4, atol=2.0**-4)
