"""Laws of every tuning method: it starts as the base, trains only its own, and merging or saving changes nothing."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch

from thinkling.core import shelf
from thinkling.engine.adapter import load_adapter, save_adapter
from thinkling.engine.tuning import checked, is_adapter, merge, method_of, tune
from thinkling.model.attend import PackedAttend
from thinkling.model.decoder import Decoder
from thinkling.model.packed import pack

ENTRIES = shelf.names("tuning")
VARIANTS: dict[str, list[dict[str, object]]] = {
    "freeze": [{}, {"layers": 1}, {"embedding": False, "layers": 1}],
    "lora": [
        {},
        {"rslora": True},
        {"dora": True, "alpha": 4.0, "dropout": 0.2},
        {"dora": True, "rslora": True, "rank": 3},
        {"targets": ["q_proj", "layers.1.mlp.up_proj"], "rank": 2},
    ],
    "bottleneck": [{"bottleneck_width": 8}],
    "prefix": [{}, {"prefix_projection": False}],
}
"""Settings of an entry to try beside its defaults."""
CASES = [{"method": name, **settings} for name in ENTRIES for settings in VARIANTS.get(name, [{}])]
every_case = pytest.mark.parametrize("settings", CASES, ids=str)
FAMILIES = {
    "tied": {},
    "untied": {"tied_embeddings": False},
    "qwen2": {"family": "qwen2", "attention_bias": True},
    "qwen3": {"family": "qwen3", "qk_norm": True},
}
TOKENS = torch.tensor([3, 14, 15, 92, 65, 35, 8, 97, 93, 23, 84])
STARTS = torch.tensor([0, 7, 11])
POSITIONS = torch.tensor([*range(7), *range(4)])


@pytest.fixture(params=FAMILIES)
def base(request, tiny_config) -> Decoder:
    torch.manual_seed(0)
    model = Decoder(dataclasses.replace(tiny_config, **FAMILIES[request.param]))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3 if parameter.dim() > 1 else 0.1)
    return model


def hidden(model) -> torch.Tensor:
    return model(TOKENS, POSITIONS, PackedAttend(STARTS))


def tuned(base: Decoder, settings) -> Decoder:
    model = copy.deepcopy(base)
    if settings["method"] == "bitfit" and base.config.qk_norm:
        pytest.skip("BitFit refuses Qwen3: tests/test_tuning_small.py")
    tune(model, checked(settings), {"name": "tiny", "hash": "0"})
    return model


def disturb(model: Decoder) -> None:
    """Move all that is trained, as a training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def train(model: Decoder, steps: int = 2) -> None:
    """A few steps through the head; each moves whatever has a gradient, however small it is."""
    own = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for _ in range(steps):
        logits = model.logits(hidden(model))
        loss = torch.nn.functional.cross_entropy(logits[:-1], TOKENS[1:])
        gradients = torch.autograd.grad(loss, own)
        with torch.no_grad():
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.sub_(0.01 * gradient.sign())


@pytest.mark.parametrize("name", ENTRIES)
def test_an_entry_has_the_interface(name):
    entry = shelf.entry("tuning", name)
    assert entry.__doc__
    assert isinstance(entry.IS_ADAPTER, bool)
    assert hasattr(entry, "merge") == entry.MERGES
    assert entry.IS_ADAPTER or entry.MERGES  # what a checkpoint keeps whole is a plain model
    assert checked(name) == checked({"method": name}) == checked(checked(name))


@pytest.mark.parametrize("name", [n for n in ENTRIES if "seed" in shelf.entry("tuning", n).Config.model_fields])
@pytest.mark.parametrize("seed", [-(2**70), 2**70])
def test_a_seed_of_any_size_is_one(tiny_config, name, seed):
    narrow = {"bottleneck_width": 8} if name == "bottleneck" else {}
    tune(Decoder(tiny_config), checked({"method": name, "seed": seed, **narrow}), {})


@pytest.mark.parametrize(
    "settings", [case for case in CASES if getattr(method_of(case), "STARTS_AS_BASE", True)], ids=str
)
def test_a_tuned_model_starts_as_the_base(base, settings):
    torch.testing.assert_close(hidden(tuned(base, settings)), hidden(base), rtol=1e-5, atol=1e-6)


@every_case
def test_training_moves_all_that_is_the_methods_own_and_nothing_else(base, settings):
    model = tuned(base, settings)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    train(model)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]) != parameter.requires_grad, name
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    if is_adapter(model):
        after = dict(model.named_parameters())
        kept = {name: p for name, p in base.named_parameters() if not after[name].requires_grad}
        assert all(torch.equal(after[name], p) for name, p in kept.items())
        assert all(p.dim() == 1 for name, p in base.named_parameters() if name not in kept)  # BitFit's, of the base


@every_case
def test_decoding_computes_what_training_trains_and_leaves_the_owner_alone(base, settings):
    model = tuned(base, settings)
    disturb(model)
    before = copy.deepcopy(model.state_dict())
    torch.testing.assert_close(
        pack(model)(TOKENS, POSITIONS, PackedAttend(STARTS)), hidden(model), rtol=1e-4, atol=1e-5
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("settings", [case for case in CASES if method_of(case).MERGES], ids=str)
def test_merging_changes_nothing_and_leaves_a_plain_model(base, settings):
    model = tuned(base, settings)
    disturb(model)
    wanted = hidden(model).detach()
    merge(model)
    torch.testing.assert_close(hidden(model), wanted, rtol=1e-4, atol=1e-5)
    plain = [(name, type(module)) for name, module in base.named_modules()]
    assert [(name, type(module)) for name, module in model.named_modules()] == plain
    # BitFit adds biases where there are none: the family is then another one, and the model one of that family.
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in Decoder(model.config).named_parameters()]
    assert model.tuned is None


@pytest.mark.parametrize("settings", [case for case in CASES if method_of(case).IS_ADAPTER], ids=str)
def test_save_and_load_is_the_identity(base, settings, tokenizer, tmp_path: Path):
    model = tuned(base, settings)
    disturb(model)
    save_adapter(model, tokenizer, tmp_path / "adapter")
    again = copy.deepcopy(base)
    load_adapter(again, tmp_path / "adapter")
    assert torch.equal(hidden(again), hidden(model))
    if hasattr(method_of(settings), "for_inference"):
        return  # what only training needs is gone: tests/test_virtual.py
    assert again.tuned == model.tuned
    assert {n for n, p in again.named_parameters() if p.requires_grad} == {
        n for n, p in model.named_parameters() if p.requires_grad
    }


@every_case
def test_a_method_is_applied_to_a_model_without_memory(base, settings):
    with torch.device("meta"):
        empty = Decoder(base.config)
    wanted = {name: (p.shape, p.requires_grad) for name, p in tuned(base, settings).named_parameters()}
    tune(empty, checked(settings), {})
    assert all(parameter.device.type == "meta" for parameter in empty.parameters())
    shapes = {name: (p.shape, p.requires_grad) for name, p in empty.named_parameters()}
    assert shapes == wanted
