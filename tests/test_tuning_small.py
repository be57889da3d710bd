"""BitFit, IA3 and bottleneck adapters beyond the laws: what is trained, what is refused, and that PEFT and transformers
compute the same from the files."""

from __future__ import annotations

import copy
import dataclasses
import json

import pytest
import torch

from thinkling.core.errors import ConfigError
from thinkling.engine.adapter import save_adapter
from thinkling.engine.tuning import checked, merge, tune
from thinkling.model.attend import PackedAttend
from thinkling.model.decoder import Decoder
from thinkling.model.folder import load_folder, save_folder

ROW = torch.tensor([3, 14, 15, 92, 65, 35, 8])
ALONE = torch.tensor([0, 7])


def tuned(model, settings, folder="."):
    """A tuned copy some way from its start."""
    model = copy.deepcopy(model)
    tune(model, checked(settings), {"name": "tiny", "hash": "0", "folder": str(folder)})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def logits(model):
    with torch.no_grad():
        return model.logits(model(ROW, torch.arange(7), PackedAttend(ALONE)))


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "ia3"},
        {"method": "prompt", "num_virtual_tokens": 4},
        {"method": "prefix", "num_virtual_tokens": 4, "prefix_projection": False},
        {"method": "prefix", "num_virtual_tokens": 4, "encoder_hidden_size": 6},
    ],
    ids=str,
)
def test_peft_reads_the_adapter_and_computes_the_same_logits(tiny_model, tiny_model_dir, tokenizer, settings, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    model = tuned(tiny_model, settings, tiny_model_dir)
    save_adapter(model, tokenizer, tmp_path / "adapter")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        wanted = theirs(input_ids=ROW.unsqueeze(0), attention_mask=torch.ones(1, 7, dtype=torch.int64)).logits[0, -7:]
    torch.testing.assert_close(logits(model), wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(model), logits(tiny_model), atol=1e-2)  # so that the file had something to say


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_a_merged_bitfit_of_a_model_without_biases_is_saved_as_one_of_the_sibling_family(
    tiny_model, tokenizer, family, tmp_path
):
    transformers = pytest.importorskip("transformers")
    tiny_model.config = dataclasses.replace(tiny_model.config, family=family)
    model = tuned(tiny_model, "bitfit")
    wanted = logits(model)
    merge(model)
    save_folder(model, tokenizer, tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["model_type"] == "qwen2"
    assert torch.equal(logits(load_folder(tmp_path / "merged")[0]), wanted)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ROW.unsqueeze(0)).logits[0], wanted, rtol=1e-4, atol=1e-4)


def test_bitfit_trains_the_biases_of_queries_keys_and_values_and_nothing_else(tiny_model):
    tune(tiny_model, checked("bitfit"), {})
    own = {name for name, p in tiny_model.named_parameters() if p.requires_grad}
    assert own == {f"model.layers.{i}.self_attn.{n}_proj.bias" for i in range(2) for n in "qkv"}


def test_bitfit_refuses_a_family_that_no_other_one_has_the_layers_of(tiny_config):
    model = Decoder(dataclasses.replace(tiny_config, family="qwen3", qk_norm=True))
    with pytest.raises(ConfigError, match="no biases to train"):
        tune(model, checked("bitfit"), {})


def test_ia3_multiplies_keys_values_and_inner_activations(tiny_model):
    """Twice the keys is twice the attention scores, as twice the queries would be."""
    model = copy.deepcopy(tiny_model)
    tune(model, checked("ia3"), {})
    for ours, plain in zip(model.model.layers, tiny_model.model.layers, strict=True):
        with torch.no_grad():
            ours.self_attn.k_proj.ia3_l.fill_(2.0)
            ours.self_attn.v_proj.ia3_l.fill_(0.5)
            ours.mlp.down_proj.ia3_l.fill_(3.0)
            plain.self_attn.q_proj.weight.mul_(2.0)
            plain.self_attn.o_proj.weight.mul_(0.5)
            plain.mlp.up_proj.weight.mul_(3.0)
    torch.testing.assert_close(logits(model), logits(tiny_model), rtol=1e-4, atol=1e-4)


def test_ia3_moves_in_smaller_steps_than_bf16_has_near_one(tiny_model):
    """1.003 is 1 in bf16; kept in fp32 it moves the numbers to which 0.3 % is more than half a step of bf16."""
    assert torch.tensor(1.003).bfloat16() == 1
    model = tiny_model.to(torch.bfloat16)
    tune(model, checked("ia3"), {})
    linear, x = model.model.layers[0].self_attn.k_proj, torch.randn(64, 48).bfloat16()
    before = linear(x)
    with torch.no_grad():
        linear.ia3_l.fill_(1.003)
    assert not torch.equal(linear(x), before)


def test_a_bottleneck_that_is_not_narrower_is_refused(tiny_model):
    with pytest.raises(ConfigError, match="not narrower"):
        tune(tiny_model, checked({"method": "bottleneck", "bottleneck_width": 48}), {})


def test_a_bottleneck_adds_its_nonlinear_layer_to_what_the_sublayer_gives(tiny_model):
    model = tuned(tiny_model, {"method": "bottleneck", "bottleneck_width": 3})
    linear, x = model.model.layers[1].mlp.down_proj, torch.randn(5, 80)
    plain = tiny_model.model.layers[1].mlp.down_proj(x)
    adapter = linear.adapter
    inner = torch.nn.functional.gelu(plain @ adapter.down.T + adapter.down_bias)
    torch.testing.assert_close(linear(x), plain + inner @ adapter.up.T + adapter.up_bias)


def test_the_first_values_are_a_function_of_the_seed(tiny_model):
    def first(settings):
        model = copy.deepcopy(tiny_model)
        tune(model, checked(settings), {})
        return torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad])

    for settings in ({"method": "bottleneck", "bottleneck_width": 4}, {"method": "prompt"}, {"method": "prefix"}):
        assert torch.equal(first(settings), first(settings))
        assert not torch.equal(first(settings), first({**settings, "seed": 1}))
