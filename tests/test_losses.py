"""Losses: sums with counts known beforehand."""

from __future__ import annotations

import torch

from thinkling.data.batch import pack
from thinkling.losses import CROSS_ENTROPY
from thinkling.model.head import HeadOutput


def test_tokens_of_loss_weight_zero_get_no_gradient_and_weights_scale_it():
    batch = pack([[1, 2, 3, 4]], [[0.0, 0.0, 1.0, 3.0]])
    logprobs = torch.zeros(4, requires_grad=True)
    total = CROSS_ENTROPY.sums(HeadOutput(logprobs), batch)["nll"] / CROSS_ENTROPY.counts(batch)["nll"]
    total.backward()
    assert logprobs.grad.tolist() == [0.0, 0.0, -0.25, -0.75]  # -w / (1 + 3)


def test_a_sum_over_chunks_is_the_sum_over_all():
    batch = pack([list(range(9)), list(range(5))], [[1.0] * 9, [0.5] * 5]).supervised()
    logprobs = torch.randn(batch.n_tokens)
    whole = CROSS_ENTROPY.sums(HeadOutput(logprobs), batch)["nll"]
    parts = sum(
        CROSS_ENTROPY.sums(HeadOutput(logprobs[i : i + 4]), batch.rows(i, min(i + 4, batch.n_tokens)))["nll"]
        for i in range(0, batch.n_tokens, 4)
    )
    torch.testing.assert_close(whole, parts)


def test_the_count_of_a_batch_is_the_sum_of_its_micro_batches():
    batch = pack([[1, 2, 3]] * 5, [[0.0, 1.0, 0.5]] * 5)
    assert CROSS_ENTROPY.counts(batch)["nll"] == sum(CROSS_ENTROPY.counts(part)["nll"] for part in batch.split(4))
