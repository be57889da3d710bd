"""A training step as a card would see it: no operation mixes devices, and the host hardly ever waits for the card."""

from __future__ import annotations

import copy

import pytest
import torch
from pretended_card import OnCard, PretendedCard, put_on_card

from thinkling.data.batch import pack
from thinkling.engine.gradient import accumulate
from thinkling.engine.measures import StepClock
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.plan import training_memory
from thinkling.engine.settings import TrainerConfig
from thinkling.engine.tuning import checked, tune
from thinkling.losses import CROSS_ENTROPY

METHODS = {
    "full": {"method": "full"},
    "freeze": {"method": "freeze", "layers": 1},
    "lora": {"method": "lora", "rank": 4},
    "lora with dropout": {"method": "lora", "rank": 4, "dropout": 0.1},
    "dora": {"method": "lora", "rank": 4, "dora": True},
    "prefix": {"method": "prefix", "num_virtual_tokens": 3, "encoder_hidden_size": 16},
    "prompt": {"method": "prompt", "num_virtual_tokens": 3},
    "ia3": {"method": "ia3"},
    "bitfit": {"method": "bitfit"},
    "bottleneck": {"method": "bottleneck", "bottleneck_width": 8},
}


def batch(rows=6):
    generator = torch.Generator().manual_seed(0)
    tokens = [torch.randint(0, 272, (5 + 3 * i,), generator=generator).tolist() for i in range(rows)]
    return pack(tokens, [[0.0, 0.0] + [1.0] * (len(row) - 2) for row in tokens])


def step(model, config, updates=2):
    """Loss and weights after some updates."""
    # A large epsilon: with a small one Adam takes the rounding of a gradient of 0 for a gradient.
    optimizer = MasterAdamW(model, betas=(0.9, 0.95), epsilon=1e-2, weight_decay=0.1)
    for number in range(1, updates + 1):
        with model.in_step(number):
            means, _ = accumulate(model, batch(), CROSS_ENTROPY, optimizer, config)
        norm = optimizer.clip(0.5)
        optimizer.step(1e-3)
    optimizer.close()
    return means["nll"], norm, [getattr(master, "numbers", master) for master in optimizer.masters]


def tuned(model, method, dtype):
    model = copy.deepcopy(model).to(dtype)
    tune(model, checked(METHODS[method]), {"name": "tiny"})
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_on_a_card_keeps_to_it_and_gives_the_numbers_of_the_cpu(tiny_model, method, dtype):
    config = TrainerConfig(micro_batch_tokens=20, head_chunk=7)
    wanted = step(tuned(tiny_model, method, dtype), config)
    with PretendedCard():
        given = step(put_on_card(tuned(tiny_model, method, dtype)), config)
    exact = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-3}
    assert given[0] == pytest.approx(wanted[0], rel=1e-4 if dtype == torch.float32 else 1e-2)
    for ours, theirs in zip(given[2], wanted[2], strict=True):
        torch.testing.assert_close(ours, theirs, **exact)


@pytest.mark.parametrize("method", METHODS)
def test_for_a_gradient_and_its_update_the_host_waits_twice_however_many_micro_batches_there_are(tiny_model, method):
    for micro_batch_tokens in (20, 1000):
        with PretendedCard() as card:
            model = put_on_card(tuned(tiny_model, method, torch.bfloat16))
            card.waits.clear()
            step(model, TrainerConfig(micro_batch_tokens=micro_batch_tokens, head_chunk=7), updates=1)
        assert card.waits == ["tolist", "_local_scalar_dense"]  # the losses, the norm of the gradients


class Mark:
    """torch.cuda.Event on a card that passes one mark a second."""

    passed = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Mark.passed += 1
        self.at = Mark.passed

    def synchronize(self):
        pass

    def elapsed_time(self, later):
        return 1000.0 * (later.at - self.at)


def test_the_clock_of_a_card_is_read_off_marks_in_its_queue(monkeypatch):
    monkeypatch.setattr(torch.cuda, "Event", Mark)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: pytest.fail("the clock waited for the card"))
    clock = StepClock(torch.device("cuda"))
    clock.begin_step()
    for phase in ("forward", "backward", "forward", "backward", "optimizer", "other"):
        clock.enter(phase)
    assert clock.training_s == 5.0
    split = clock.split()
    assert (split["time/data_s"], split["time/forward_s"], split["time/step_s"]) == (1.0, 2.0, 7.0)


def test_what_a_card_keeps_of_attention_does_not_grow_with_the_square_of_a_row(tiny_config):
    kwargs = {"micro_batch_tokens": 4096, "head_chunk": 512, "device": "cuda"}
    short, long = (training_memory(tiny_config, torch.bfloat16, longest=n, **kwargs) for n in (64, 512))
    assert short.activations == long.activations
    assert long.activations < training_memory(tiny_config, torch.float32, longest=512, **kwargs).activations / 2


def test_the_pretended_card_sees_a_mixture_of_devices_and_what_waits():
    with PretendedCard() as card:
        there = torch.ones(3, device="cuda")
        assert isinstance(there, OnCard)
        with pytest.raises(AssertionError, match="of the card and of the host"):
            there + torch.ones(3)
        assert there.device.type == "cuda"
        assert not card.waits
        assert len(there.nonzero()) == 3
        assert float(there.sum()) == 3.0
        torch.ones(3).to("cuda")
        assert card.waits == ["nonzero", "_local_scalar_dense", "to"]
