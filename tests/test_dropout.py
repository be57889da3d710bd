"""LoRA's dropout: as random as it has to be, the same however a step is cut, and silent outside of training."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from thinkling.data.batch import pack
from thinkling.data.prefixes import share
from thinkling.engine import gradient as engine
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.settings import TrainerConfig
from thinkling.engine.tuning import checked, merge, tune
from thinkling.losses import CROSS_ENTROPY
from thinkling.model.attend import PackedAttend
from thinkling.model.dropout import Dropout
from thinkling.model.lora import DoRALinear, LoRALinear

CONFIG = TrainerConfig.model_validate({})


def stream(rows=40, length=50):
    tokens = torch.randint(0, 1000, (rows, length), generator=torch.Generator().manual_seed(0)).tolist()
    return pack(tokens, [[0.0] + [1.0] * (length - 1)] * rows)


def masks(batch, *names, p=0.3, step=1, seed=0, width=300):
    """(N, width) of each matrix, as 0 and 1."""
    dropout = Dropout(p, seed)
    dropout.begin(step)
    dropout.see(batch.tokens, batch.positions, PackedAttend(batch.starts, batch.prefixes))
    return [dropout.of(name, width).mask().double() for name in names]


# the draws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.1, 0.5, 0.9])
def test_the_share_that_is_left_out_is_the_one_asked_for(p):
    (mask,) = masks(stream(), "q", p=p)
    # 2,000 tokens choose among 4,096 patterns with repetition: the variance of a feature's share is that of 2,000 free
    # draws times 1 + 2000 / 4096, about 1.49; of the largest of 300 the error is within five.
    assert float((mask.mean(0) - p).abs().max()) < 5 * (1.49 * p * (1 - p) / 2000) ** 0.5
    assert float((mask.mean(1) - p).abs().max()) < 6 * (p * (1 - p) / 300) ** 0.5
    assert abs(float(mask.mean()) - p) < 5 * (1.49 * p * (1 - p) / mask.numel()) ** 0.5


def test_the_draws_of_two_features_two_tokens_and_two_matrices_are_unrelated():
    one, other = masks(stream(), "q", "k")
    between = torch.corrcoef(torch.cat([one, other], 1).T)
    between.fill_diagonal_(0)
    # Of independent columns of 2,000 draws a correlation has a standard error of 1 / sqrt(2000), here times sqrt(1.49).
    assert float(between.abs().max()) < 6.5 * (1.49 / 2000) ** 0.5
    assert float(between.square().mean().sqrt()) < 1.1 * (1.49 / 2000) ** 0.5
    across = torch.corrcoef(one[:300])
    across.fill_diagonal_(0)
    # A pair of tokens has the same pattern once in 4,096: that adds 1 / 4096 to the mean square of 1 / 300.
    assert float(across.square().mean()) == pytest.approx(1 / 300 + 1 / 4096, rel=0.1)


def test_another_step_seed_or_beginning_draws_anew_and_the_same_one_does_not():
    batch = pack([[5, 6, 7], [5, 6, 8], [9, 6, 7]], [[0.0, 1.0, 1.0]] * 3)
    (mask,) = masks(batch, "q")
    rows = mask.view(3, 3, -1)
    assert torch.equal(rows[0, :2], rows[1, :2])  # they begin alike
    different = [(rows[0, 2], rows[1, 2]), *zip(rows[0], rows[2], strict=True)]  # all that stands before counts
    for step, seed in ((2, 0), (1, 1)):
        different += list(zip(mask, masks(batch, "q", step=step, seed=seed)[0], strict=True))
    assert not any(torch.equal(one, other) for one, other in different)
    assert torch.equal(masks(batch, "q")[0], mask)


# the gradient ---------------------------------------------------------------------------------------------------------


@given(st.sampled_from([LoRALinear, DoRALinear]), st.integers(1, 7), st.booleans(), st.floats(0.1, 0.9))
def test_outputs_and_gradients_are_those_of_the_plain_way(kind, n, bias, p):
    generator = torch.Generator().manual_seed(n)
    torch.manual_seed(n)
    made = kind(torch.nn.Linear(12, 10, bias=bias).requires_grad_(False), 4, 0.7, generator)
    with torch.no_grad():
        made.lora_B.normal_(generator=generator)
    dropout = Dropout(p, 3)
    made.drop_inputs(dropout, "q")
    dropout.begin(1)
    dropout.see(torch.arange(n), torch.arange(n), PackedAttend(torch.tensor([0, n])))
    mask = dropout.of("q", 12).mask()
    x = torch.randn(n, 12).requires_grad_(True)
    kept = torch.where(mask, 0.0, x / (1 - p))
    low = 0.7 * F.linear(F.linear(kept, made.lora_A), made.lora_B)
    if kind is DoRALinear:
        dense = made.weight + 0.7 * made.lora_B @ made.lora_A
        gain = made.lora_magnitude_vector / torch.linalg.vector_norm(dense, dim=1).detach()
        oracle = (F.linear(x, made.weight) + low) * gain + (made.bias if bias else 0.0)
    else:
        oracle = F.linear(x, made.weight, made.bias) + low
    out = made(x)
    torch.testing.assert_close(out, oracle, rtol=1e-4, atol=1e-5)
    wanted = [p for p in made.parameters() if p.requires_grad] + [x]
    upstream = torch.randn(n, 10)
    theirs = torch.autograd.grad(oracle, wanted, upstream)
    for ours, plain in zip(torch.autograd.grad(out, wanted, upstream), theirs, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


@pytest.fixture(params=[False, True], ids=["lora", "dora"])
def tuned(tiny_model, request):
    settings = {"method": "lora", "rank": 4, "dropout": 0.4, "dora": request.param}
    tune(tiny_model, checked(settings), {"name": "tiny", "hash": "0"})
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    return tiny_model


BATCH = pack(
    [[*range(30), *range(100, 100 + n)] for n in (5, 6, 7, 8, 9)], [[0.0] * 30 + [1.0] * n for n in (5, 6, 7, 8, 9)]
)
"""Five rows of one instruction."""


def gradient(model, step, **settings):
    optimizer = MasterAdamW(model, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.0)
    with model.in_step(step):
        engine.accumulate(model, BATCH, CROSS_ENTROPY, optimizer, CONFIG.model_copy(update=settings))
    optimizer.close()
    return torch.cat([g.flatten() for g in optimizer.gradients])


def test_micro_batches_and_shared_beginnings_leave_the_steps_gradient(tuned, monkeypatch):
    whole = gradient(tuned, 3)
    assert share(BATCH).n_tokens < BATCH.n_tokens
    for size in (1, 80):
        torch.testing.assert_close(gradient(tuned, 3, micro_batch_tokens=size), whole, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(engine, "share", lambda batch: batch)
    torch.testing.assert_close(gradient(tuned, 3), whole, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(gradient(tuned, 4), whole, rtol=1e-2, atol=1e-3)  # another step drops others


def test_nothing_is_dropped_outside_of_a_training_step(tuned):
    def hidden():
        with torch.no_grad():
            return tuned(BATCH.tokens, BATCH.positions, PackedAttend(BATCH.starts))

    before = hidden()
    with tuned.in_step(1):
        assert not torch.allclose(hidden(), before, atol=1e-2)
    assert torch.equal(hidden(), before)
    merge(tuned)
    torch.testing.assert_close(hidden(), before, rtol=1e-4, atol=1e-4)
