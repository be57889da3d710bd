"""The chunked head: gradients formed in the forward pass against autograd through full logits."""

from __future__ import annotations

import pytest
import torch

from thinkling.model.head import gradient_in_forward, predictions


@pytest.fixture
def case():
    torch.manual_seed(0)
    return torch.randn(11, 6), torch.randn(23, 6), torch.randint(0, 23, (11,)), torch.rand(11)


def full(hidden, weight, targets):
    log_p = torch.log_softmax(hidden @ weight.T, -1)
    return log_p.gather(1, targets[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
@pytest.mark.parametrize("needs", [("logprobs",), ("logprobs", "entropy")])
def test_chunked_gradients_equal_autograd_through_full_logits(case, chunk, needs):
    hidden, weight, targets, scale = case
    leaves = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    logprobs, entropy = full(*leaves, targets)
    # Nothing linear: the gradient of each token depends on its own value.
    total = (scale * logprobs.exp()).sum() + (0.3 * (scale * entropy).sum() if "entropy" in needs else 0)
    wanted = torch.autograd.grad(total, leaves)

    def loss(out, low, high):
        part = (scale[low:high] * out.logprobs.exp()).sum()
        return part + (0.3 * (scale[low:high] * out.entropy).sum() if out.entropy is not None else 0)

    d_weight = torch.zeros_like(weight)
    out, d_hidden = gradient_in_forward(
        hidden, weight, targets, loss, chunk=chunk, needs=needs, add_weight_gradient=d_weight.add_
    )
    torch.testing.assert_close(out.logprobs, logprobs.detach())
    torch.testing.assert_close(d_hidden, wanted[0])
    torch.testing.assert_close(d_weight, wanted[1])


def test_a_loss_of_entropy_alone_is_carried_out(case):
    hidden, weight, targets, _ = case
    leaf = hidden.clone().requires_grad_()
    wanted = torch.autograd.grad(full(leaf, weight, targets)[1].sum(), leaf)[0]
    _, d_hidden = gradient_in_forward(
        hidden, weight, targets, lambda out, *_: out.entropy.sum(), chunk=4, needs=("logprobs", "entropy"),
        add_weight_gradient=None,
    )  # fmt: skip
    torch.testing.assert_close(d_hidden, wanted)


def test_predictions_do_not_depend_on_the_chunk(case):
    hidden, weight, targets, _ = case
    wanted = full(hidden, weight, targets)[0]
    for chunk in (1, 5, 50):
        torch.testing.assert_close(predictions(hidden, weight, targets, chunk=chunk).logprobs, wanted)


def test_of_bf16_logits_everything_is_measured_in_fp32(case):
    hidden, weight, targets, scale = case
    hidden, weight = (30 * hidden).bfloat16(), weight.bfloat16()
    # The oracle rounds once, where the product does; a logsumexp in bf16 would be off by up to 1/2 near 100.
    wanted = torch.log_softmax((hidden @ weight.T).float(), -1).gather(1, targets[:, None])[:, 0]
    for out in (
        predictions(hidden, weight, targets, chunk=4),
        gradient_in_forward(
            hidden, weight, targets, lambda out, low, high: (scale[low:high] * out.logprobs).sum(), chunk=11,
            needs=("logprobs",), add_weight_gradient=None,
        )[0],
    ):  # fmt: skip
        assert out.logprobs.dtype == torch.float32
        torch.testing.assert_close(out.logprobs, wanted, rtol=1e-4, atol=1e-4)
