"""Masters and moments."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thinkling.engine.optimizer import MasterAdamW


def optimizer_of(model, **changes):
    return MasterAdamW(model, **{"betas": (0.9, 0.95), "epsilon": 1e-8, "weight_decay": 0.0, **changes})


def test_a_bf16_weight_plus_a_small_update_is_rounded_away_and_masters_keep_it():
    weight = torch.ones(1, dtype=torch.bfloat16)
    for _ in range(1000):
        weight += -1e-6
    assert weight.item() == 1.0  # the trap: a thousandth of change is gone

    model = nn.Linear(1, 1, bias=False).bfloat16()
    nn.init.ones_(model.weight)
    optimizer = optimizer_of(model)
    for _ in range(1000):
        optimizer.gradients[0].fill_(1.0)
        optimizer.step(1e-5)  # AdamW moves by about the learning rate: 1000 * 1e-5 = 0.01
    assert optimizer.masters[0].item() == pytest.approx(0.99, abs=1e-4)
    assert model.weight.item() == pytest.approx(0.99, abs=2**-8)  # the copy is as near as bf16 can be


def test_in_fp32_it_is_torchs_adamw():
    torch.manual_seed(0)
    ours, theirs = nn.Linear(5, 3), nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    optimizer = optimizer_of(ours, weight_decay=0.1)
    decayed = [{"params": [theirs.weight], "weight_decay": 0.1}, {"params": [theirs.bias], "weight_decay": 0.0}]
    oracle = torch.optim.AdamW(decayed, lr=1e-2, betas=(0.9, 0.95), eps=1e-8)
    for _ in range(5):
        x = torch.randn(4, 5)
        ours(x).square().sum().backward()
        optimizer.step(1e-2)
        oracle.zero_grad()
        theirs(x).square().sum().backward()
        oracle.step()
    torch.testing.assert_close(ours.weight, theirs.weight)
    torch.testing.assert_close(ours.bias, theirs.bias)


def test_micro_batch_gradients_are_summed_in_fp32():
    model = nn.Linear(1, 1, bias=False).bfloat16()
    optimizer = optimizer_of(model)
    for _ in range(1000):
        model(torch.full((1, 1), 2.0**-10, dtype=torch.bfloat16)).sum().backward()
    # A bf16 sum stops growing at 2^-2, where 2^-10 is half a unit in the last place; fp32 reaches 1000 / 1024.
    assert optimizer.gradients[0].item() == pytest.approx(1000 / 1024)
    assert model.weight.grad is None


def test_clipping_scales_to_the_norm_and_leaves_smaller_gradients_alone():
    model = nn.Linear(2, 1, bias=False)
    optimizer = optimizer_of(model)
    optimizer.gradients[0].copy_(torch.tensor([[3.0, 4.0]]))
    assert optimizer.clip(10.0) == pytest.approx(5.0)
    assert optimizer.gradients[0].tolist() == [[3.0, 4.0]]
    optimizer.clip(1.0)
    torch.testing.assert_close(optimizer.gradients[0], torch.tensor([[0.6, 0.8]]))


def test_frozen_parameters_have_no_master():
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert optimizer_of(model).names == ["weight"]


def test_a_parameter_without_a_gradient_in_a_step_counts_as_one_of_gradient_zero():
    ours, theirs = (nn.ModuleList([nn.Linear(3, 1, bias=False) for _ in range(2)]) for _ in range(2))
    theirs.load_state_dict(ours.state_dict())
    optimizer = optimizer_of(ours)
    oracle = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
    for used in ((0, 1), (0,), (0, 1)):
        oracle.zero_grad(set_to_none=False)
        for layers in (ours, theirs):
            sum(layers[i](torch.ones(1, 3)).square().sum() for i in used).backward()
        optimizer.step(1e-2)
        oracle.step()
    for mine, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_virtual_tokens_and_vectors_that_scale_are_not_decayed(tiny_model):
    from thinkling.tuning import ia3, prompt

    for entry in (ia3, prompt):
        entry.apply(tiny_model, entry.Config())
        own = [p for p in tiny_model.parameters() if p.requires_grad]
        before = [p.detach().clone() for p in own]
        optimizer_of(tiny_model, weight_decay=0.5).step(0.1)  # gradients of zero: only a decay moves anything
        assert all(torch.equal(p, was) for p, was in zip(own, before, strict=True))


def test_only_matrices_that_are_no_embedding_are_decayed():
    model = nn.ModuleDict({"embed_tokens": nn.Embedding(3, 2), "proj": nn.Linear(2, 2)})
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer_of(model, weight_decay=0.5).step(0.1)  # gradients of zero: only the decay moves anything
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"proj.weight"}


def test_a_limit_of_zero_leaves_every_gradient_alone():
    optimizer = optimizer_of(nn.Linear(2, 1, bias=False))
    optimizer.gradients[0].copy_(torch.tensor([[3.0, 4.0]]))
    assert optimizer.clip(0.0) == pytest.approx(5.0)
    assert optimizer.gradients[0].tolist() == [[3.0, 4.0]]


def test_what_is_forgotten_leaves_no_trace_in_the_next_sum():
    optimizer = optimizer_of(model := nn.Linear(2, 1, bias=False))
    model(torch.full((1, 2), 5.0)).sum().backward()
    optimizer.forget()
    model(torch.ones(1, 2)).sum().backward()
    assert optimizer.gradients[0].tolist() == [[1.0, 1.0]]


def test_a_closed_optimizer_gives_gradients_back_to_autograd():
    model = nn.Linear(2, 1, bias=False)
    optimizer_of(model).close()
    model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad.tolist() == [[1.0, 1.0]]


def test_restored_it_goes_on_as_if_never_stopped():
    torch.manual_seed(0)
    whole, parted = nn.Linear(4, 2), nn.Linear(4, 2)
    parted.load_state_dict(whole.state_dict())
    data = torch.randn(6, 3, 4)

    def steps(model, optimizer, some):
        for x in some:
            model(x).square().sum().backward()
            optimizer.step(1e-2)

    steps(whole, optimizer_of(whole), data)
    first = optimizer_of(parted)
    steps(parted, first, data[:3])
    state = {name: value.clone() for name, value in first.state().items()}
    first.close()
    nn.init.zeros_(parted.weight)  # what the model holds plays no part
    second = optimizer_of(parted)
    second.restore(state, 3)
    steps(parted, second, data[3:])
    assert torch.equal(whole.weight, parted.weight)
