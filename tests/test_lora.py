"""LoRA and DoRA: the hand-written gradient against autograd's, what is not computed, and the very files of PEFT."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from thinkling.core.errors import ConfigError, ModelError
from thinkling.engine.adapter import load_adapter, save_adapter
from thinkling.engine.optimizer import MasterAdamW
from thinkling.engine.tuning import checked, merge, tune
from thinkling.model.attend import PackedAttend
from thinkling.model.decoder import Decoder
from thinkling.model.lora import DoRALinear, LoRALinear, lora_plain
from thinkling.tuning import freeze, lora

TOKENS = torch.tensor([3, 14, 15, 92, 65, 35, 8, 97, 93])
POSITIONS, STARTS = torch.arange(9), torch.tensor([0, 9])
TINY = {"name": "tiny", "hash": "0", "folder": "tiny"}


def module(kind, rank=4, width=12, out=10, bias=True, dtype=torch.float32):
    """A module in the midst of training: neither factor is zero."""
    generator = torch.Generator().manual_seed(rank)
    torch.manual_seed(rank)
    made = kind(torch.nn.Linear(width, out, bias=bias).to(dtype).requires_grad_(False), rank, 0.7, generator)
    with torch.no_grad():
        made.lora_B.normal_(generator=generator)
        if kind is DoRALinear:
            made.lora_magnitude_vector.mul_(1.3)
    return made


def plain(made, x):
    """The oracle: dense weights, autograd; DoRA's norm counts as a constant."""
    if not isinstance(made, DoRALinear):
        return lora_plain(x, made.weight, made.bias, made.lora_A, made.lora_B, made.scale)
    dense = made.weight + made.scale * made.lora_B @ made.lora_A
    norms = torch.linalg.vector_norm(dense, dim=1).detach()
    return F.linear(x, dense * (made.lora_magnitude_vector / norms).unsqueeze(1), made.bias)


@given(st.sampled_from([LoRALinear, DoRALinear]), st.integers(1, 10), st.integers(1, 7), st.booleans(), st.booleans())
def test_outputs_and_gradients_are_those_of_the_plain_way(kind, rank, rows, bias, deep):
    made = module(kind, rank, bias=bias)
    x = torch.randn(rows, 12).requires_grad_(deep)
    wanted = [p for p in made.parameters() if p.requires_grad] + ([x] if deep else [])
    upstream = torch.randn(rows, 10)
    out, oracle = made(x), plain(made, x)
    torch.testing.assert_close(out, oracle, rtol=1e-4, atol=1e-5)
    given_gradients = torch.autograd.grad(out, wanted, upstream)
    for ours, theirs in zip(given_gradients, torch.autograd.grad(oracle, wanted, upstream), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [LoRALinear, DoRALinear])
def test_a_bf16_model_computes_in_bf16_and_trains_fp32_factors(kind):
    made, wide = module(kind, dtype=torch.bfloat16), module(kind)
    with torch.no_grad():
        for mine, theirs in zip(wide.parameters(), made.parameters(), strict=True):
            mine.copy_(theirs)
    x = torch.randn(50, 12)
    out = made(x.bfloat16())
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), wide(x), rtol=0.05, atol=0.05)
    out.float().square().sum().backward()
    assert made.lora_A.grad.dtype == made.lora_B.grad.dtype == torch.float32


def test_a_magnitude_moved_by_less_than_bf16_can_tell_from_one_still_moves_the_output():
    made = module(DoRALinear, dtype=torch.bfloat16)
    x = torch.randn(400, 12).bfloat16()
    before = made(x)
    with torch.no_grad():
        made.lora_magnitude_vector.mul_(1 + 2.0**-10)
    assert not torch.equal(made(x), before)


def backward_steps(out: torch.Tensor) -> list[torch.autograd.graph.Node]:
    """Every node of the graph that a backward pass from here would run."""
    found, open_ends = [], [out.grad_fn] if out.grad_fn else []
    while open_ends:
        node = open_ends.pop()
        if node in found:
            continue
        found.append(node)
        open_ends += [upper for upper, _ in node.next_functions if upper is not None]
    return found


def layer_outputs(model):
    """What each layer gave in one forward pass."""
    outputs: list[torch.Tensor] = []
    hooks = [layer.register_forward_hook(lambda *args: outputs.append(args[2])) for layer in model.model.layers]
    model(TOKENS, POSITIONS, PackedAttend(STARTS))
    for hook in hooks:
        hook.remove()
    return outputs


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "freeze", "layers": 1},
        {"method": "lora", "targets": ["layers.1.mlp.up_proj"], "rank": 2},
        {"method": "lora", "targets": ["layers.1.self_attn.q_proj"], "rank": 2, "dora": True},
    ],
    ids=str,
)
def test_no_gradient_function_exists_below_the_lowest_trained_layer(tiny_model, settings):
    tune(tiny_model, checked(settings), TINY)
    below, above = layer_outputs(tiny_model)
    assert below.grad_fn is None
    assert not below.requires_grad
    assert above.grad_fn is not None


def test_no_gradient_of_a_frozen_weight_is_formed(tiny_model):
    tune(tiny_model, checked({"method": "lora", "rank": 2}), TINY)
    nodes = backward_steps(tiny_model(TOKENS, POSITIONS, PackedAttend(STARTS)))
    leaves = {id(node.variable) for node in nodes if hasattr(node, "variable")}
    assert leaves == {id(p) for p in tiny_model.parameters() if p.requires_grad}
    first = tiny_model.model.layers[0].self_attn.q_proj
    assert first(torch.randn(3, 48)).grad_fn.next_functions[0][0] is None  # nor one of what it reads


def test_a_frozen_embedding_freezes_the_head_that_is_the_same_tensor(tiny_model):
    tune(tiny_model, checked({"method": "freeze"}), TINY)
    assert not tiny_model.lm_head.weight.requires_grad
    assert not MasterAdamW(tiny_model, betas=(0.9, 0.95), epsilon=1e-8, weight_decay=0.0).trains(
        tiny_model.lm_head.weight
    )


def test_merging_a_bf16_model_rounds_once(tiny_model):
    model = tiny_model.bfloat16()
    tune(model, checked({"method": "lora", "rank": 8}), TINY)
    q = model.model.layers[0].self_attn.q_proj
    with torch.no_grad():
        q.lora_B.normal_()
    exact = q.weight.double() + q.scale * q.lora_B.double() @ q.lora_A.double()
    merge(model)
    merged = model.model.layers[0].self_attn.q_proj.weight
    assert merged.dtype == torch.bfloat16
    torch.testing.assert_close(merged.double(), exact, rtol=2.0**-8, atol=1e-6)


# bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "what", "fix"),
    [
        ({"rank": 17}, "rank 17 is above the width 16 of k_proj", "at most 16, leave k_proj, v_proj out"),
        (
            {"rank": 49, "targets": ["up_proj"]},
            "rank 49 is above the width 48 of up_proj",
            "at most 48, or train everyth",
        ),
        ({"targets": ["qproj"]}, "'qproj' is the name of nothing", "did you mean 'q_proj'? in this model there are q_"),
        ({"targets": ["q_proj", "lm_head"]}, "'lm_head' is the name of nothing", "gate_proj, up_proj, down_proj"),
        ({"targets": ["layers.2.mlp.up_proj"]}, "'layers.2.mlp.up_proj' is the name of nothing", "up_proj"),
        ({"targets": []}, "everything is frozen", "name some of q_proj"),
    ],
)
def test_a_lora_that_cannot_be_is_refused_with_the_mend(tiny_model, settings, what, fix):
    with pytest.raises(ConfigError) as caught:
        tune(tiny_model, checked({"method": "lora", **settings}), TINY)
    assert what in caught.value.what
    assert fix in caught.value.fix


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"embedding": False}, "nothing frozen"),
        ({"layers": 2}, "everything is frozen"),
        ({"layers": 3}, "the model has 2"),
    ],
)
def test_freezing_all_or_nothing_is_refused_with_the_mend(tiny_model, settings, what):
    with pytest.raises(ConfigError, match=what) as caught:
        tune(tiny_model, checked({"method": "freeze", **settings}), TINY)
    assert caught.value.fix


def test_a_head_of_its_own_may_be_trained_alone(tiny_config):
    model = Decoder(dataclasses.replace(tiny_config, tied_embeddings=False))
    freeze.apply(model, freeze.Config(layers=2))
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["model.norm.weight", "lm_head.weight"]


@pytest.mark.parametrize(
    ("settings", "rows", "said"),
    [
        ({"rank": 16}, 5000, []),
        ({"rank": 64, "alpha": 64}, 5000, ["learn them by heart"]),
        ({"rank": 8, "alpha": 8}, 200_000, ["may hold too little"]),
        ({"rank": 64, "alpha": 64}, 200_000, ["more epochs"]),
        ({"rank": 16, "alpha": 16}, 50_000, []),
        ({"rank": 2, "alpha": 32}, 50_000, ["scaled by 16"]),
        ({"rank": 64, "alpha": 512, "rslora": True}, 50_000, ["more epochs"]),
    ],
)
def test_advice_follows_the_number_of_rows_and_the_scale(settings, rows, said):
    given_advice = lora.advice(lora.Config(**settings), rows)
    assert len(given_advice) == len(said)
    assert all(part in text for part, text in zip(said, given_advice, strict=True))


# on disk --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def trained(tiny_model, tokenizer, tmp_path):
    """A LoRA in the midst of training, and its folder."""
    tune(tiny_model, checked({"method": "lora", "rank": 2}), TINY)
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    save_adapter(tiny_model, tokenizer, tmp_path / "adapter")
    return tiny_model, tmp_path / "adapter"


def test_an_adapter_of_another_model_or_a_damaged_one_is_refused(trained, tiny_config):
    _, folder = trained
    with pytest.raises(ModelError, match="of another model or damaged"):
        load_adapter(Decoder(dataclasses.replace(tiny_config, ffn_width=96)), folder)
    with pytest.raises(ModelError, match="of another model or damaged"):
        load_adapter(Decoder(dataclasses.replace(tiny_config, n_layers=1)), folder)
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="is damaged"):
        load_adapter(Decoder(tiny_config), folder)
    (folder / "tuning.json").write_text("{")
    with pytest.raises(ModelError, match="does not say what it is"):
        load_adapter(Decoder(tiny_config), folder)


@pytest.mark.parametrize(
    "options", [{}, {"rslora": True}, {"dora": True}, {"targets": ["q_proj", "down_proj"]}], ids=str
)
def test_transformers_and_peft_open_a_saved_adapter_with_the_same_logits(tiny_model, tokenizer, tmp_path, options):
    peft = pytest.importorskip("peft", reason="PEFT is the oracle here: pip install peft")
    transformers = pytest.importorskip("transformers")
    from thinkling.model.folder import save_folder

    save_folder(tiny_model, tokenizer, tmp_path / "base")
    tune(tiny_model, checked({"method": "lora", "rank": 4, **options}), {**TINY, "folder": str(tmp_path / "base")})
    with torch.no_grad():
        for parameter in tiny_model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    save_adapter(tiny_model, tokenizer, tmp_path / "adapter")

    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    ours = tiny_model.logits(tiny_model(TOKENS, POSITIONS, PackedAttend(STARTS)))
    with torch.no_grad():
        torch.testing.assert_close(theirs(TOKENS.unsqueeze(0)).logits[0], ours, rtol=1e-4, atol=1e-4)
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "base")


def test_a_saved_adapter_is_what_peft_itself_would_save(tiny_model, tokenizer, tmp_path):
    peft = pytest.importorskip("peft", reason="PEFT is the oracle here: pip install peft")
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    from thinkling.model.folder import save_folder

    save_folder(tiny_model, tokenizer, tmp_path / "base")
    tune(tiny_model, checked({"method": "lora", "rank": 4, "dora": True}), TINY)
    save_adapter(tiny_model, tokenizer, tmp_path / "ours")
    config = peft.LoraConfig(r=4, use_dora=True, target_modules=list(lora.Config().targets), task_type="CAUSAL_LM")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    peft.get_peft_model(base, config).save_pretrained(tmp_path / "theirs")
    ours, theirs = (
        {n: (t.shape, t.dtype) for n, t in load_file(tmp_path / side / "adapter_model.safetensors").items()}
        for side in ("ours", "theirs")
    )
    assert ours == theirs
