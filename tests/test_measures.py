"""Measures of a step: they add up, they agree with what they stand for, and they change nothing that is trained."""

from __future__ import annotations

import pytest
import torch
from test_trainer import CONFIG, rows, training

from thinkling.core.run import Run
from thinkling.data.kinds import KINDS, Kinds
from thinkling.data.loader import Loader
from thinkling.engine import measures
from thinkling.engine.gradient import accumulate, micro_batches, step_flops
from thinkling.engine.measures import PHASES, LossByKind, Product, StepClock, UpdateRatio, peak_of_shapes, products
from thinkling.engine.optimizer import MasterAdamW
from thinkling.losses import CROSS_ENTROPY

CPU = torch.device("cpu")


# time -----------------------------------------------------------------------------------------------------------------


def test_the_phases_add_up_to_the_step_and_nothing_is_counted_twice(monkeypatch):
    now = iter([0.0, 10.0, 11.0, 13.0, 16.0, 20.0])
    monkeypatch.setattr(measures.time, "monotonic", lambda: next(now))
    clock = StepClock(CPU)
    clock.begin_step()  # 10: what went before is forgotten
    clock.enter("forward")  # 11
    clock.enter("backward")  # 13
    clock.enter("forward")  # 16
    split = clock.split()  # 20
    assert {name: s for name, s in split.items() if s} == {
        "time/data_s": 1.0,
        "time/forward_s": 6.0,
        "time/backward_s": 3.0,
        "time/step_s": 10.0,
    }


def test_before_the_first_step_there_is_no_split():
    assert StepClock(CPU).split() == {}


def test_every_logged_step_says_where_its_time_went(tiny_model, tokenizer, tmp_path):
    training(tiny_model, tokenizer, tmp_path / "run", eval_steps=2, validate=lambda _: {"loss/validation": 1.0})
    lines = [line for line in Run.open(tmp_path / "run").metrics() if line["step"]]
    for line in lines:
        assert sum(line[f"time/{phase}_s"] for phase in PHASES) == pytest.approx(line["time/step_s"])
        assert line["time/forward_s"] > 0
        assert line["time/backward_s"] > 0
        assert (line["time/checkpoint_s"] > 0) == (line["step"] % 2 == 0)


# whose the loss is ----------------------------------------------------------------------------------------------------


def halves(tiny_model, tokenizer, **more):
    optimizer = MasterAdamW(tiny_model, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.0)
    batch = Kinds(tokenizer).of(Loader(rows(), batch_rows=24).packed(range(24)))
    means, _ = accumulate(tiny_model, batch, CROSS_ENTROPY, optimizer, CONFIG, **more)
    optimizer.close()
    return means["nll"], torch.cat([g.flatten() for g in optimizer.gradients])


def test_the_losses_of_the_kinds_add_up_to_the_loss_whatever_the_micro_batches(tiny_model, tokenizer):
    by_kind = LossByKind()
    loss, _ = halves(tiny_model, tokenizer, by_kind=by_kind)
    sums, weights = by_kind.totals()
    assert float(sums.sum() / weights.sum()) == pytest.approx(loss, rel=1e-6)
    said = by_kind.metrics()
    weights = weights.sum(0)
    parts = [said[f"loss/{kind}"] * float(weight) for kind, weight in zip(KINDS, weights, strict=True) if weight]
    assert sum(parts) / float(weights.sum()) == pytest.approx(loss, rel=1e-6)


def test_measuring_changes_no_bit_of_the_gradient(tiny_model, tokenizer):
    _, plain = halves(tiny_model, tokenizer)
    _, measured = halves(tiny_model, tokenizer, by_kind=LossByKind(), clock=StepClock(CPU))
    assert torch.equal(plain, measured)


def test_a_kind_that_does_not_occur_has_no_loss():
    assert LossByKind().metrics() == {}


def test_kinds_are_logged_with_each_logged_step_and_found_for_no_other(tiny_model, tokenizer, tmp_path, monkeypatch):
    found = []
    of = Kinds.of
    monkeypatch.setattr(Kinds, "of", lambda self, batch: found.append(1) or of(self, batch))
    training(tiny_model, tokenizer, tmp_path / "run", logging_steps=3)
    lines = Run.open(tmp_path / "run").metrics()
    assert len(found) == len(lines) == 2
    assert all("loss/words" in line and 0 < line["tokens/supervised_share"] <= 1 for line in lines)


# how far the weights move ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "tolerance"), [(100, 1e-6), (400_000, 0.02)])
def test_the_update_ratio_is_the_norm_of_the_change_over_that_of_the_weights(size, tolerance):
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(size, generator=generator), torch.randn(50, 3, generator=generator)]
    change = [1e-3 * torch.randn(w.shape, generator=generator) for w in weights]
    wanted = torch.cat([c.flatten() for c in change]).norm() / torch.cat([w.flatten() for w in weights]).norm()
    ratio = UpdateRatio(weights)
    for weight, moved in zip(weights, change, strict=True):
        weight += moved
    assert ratio.after() == pytest.approx(float(wanted), rel=tolerance)


def test_the_update_ratio_is_measured_as_often_as_asked(tiny_model, tokenizer, tmp_path):
    training(tiny_model, tokenizer, tmp_path / "run", update_ratio_steps=3)
    measured = [m["step"] for m in Run.open(tmp_path / "run").metrics() if "update/to_weight_ratio" in m]
    assert measured == [3, 6]


# what the machine could do --------------------------------------------------------------------------------------------


def test_the_products_are_those_that_the_flops_of_a_step_count(tiny_config):
    batch = Loader(rows(), batch_rows=24).packed(range(24))
    micros = micro_batches(batch, CONFIG.model_copy(update={"micro_batch_tokens": 10_000}), CPU)
    tokens, supervised = sum(m.n_tokens for m in micros), len(batch.targets())
    mine = products(tiny_config, tokens, 7, supervised / tokens)
    pairs = sum(float(m.positions.sum()) + m.n_tokens / 2 for m in micros)
    attention = 12 * tiny_config.n_layers * tiny_config.n_heads * tiny_config.head_width * pairs
    wanted = step_flops(tiny_config, micros) - attention
    assert sum(p.count * p.flops for p in mine) == pytest.approx(wanted, rel=1e-9)


def test_the_peak_of_shapes_weighs_each_product_by_its_time(monkeypatch):
    fast, slow = Product(10, 10, 10, "forward", 3.0), Product(20, 10, 10, "input", 1.0)
    times = {10: 1.0, 20: 8.0}
    monkeypatch.setattr(measures, "_best_time", lambda product, *_: times[product.m])
    flops = 3 * 2000 + 4000
    assert peak_of_shapes([fast, slow], torch.float32, CPU) == pytest.approx(flops / (3 * 1.0 + 8.0))


def test_the_peak_of_a_models_own_shapes_is_measured_within_about_a_second(tiny_config):
    import time

    began = time.monotonic()
    assert peak_of_shapes(products(tiny_config, 256, 64), torch.float32, CPU) > 0
    assert time.monotonic() - began < 5  # of a busy machine
