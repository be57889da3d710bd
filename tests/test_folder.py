"""Model folders: transformers and we read each other's with equal logits; the damaged and the dangerous are refused."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from thinkling.core.errors import ModelError
from thinkling.model.attend import PackedAttend
from thinkling.model.config import ModelConfig, from_hugging_face, to_hugging_face
from thinkling.model.decoder import Decoder
from thinkling.model.folder import load_folder, save_folder
from thinkling.model.weights import weight_files, write_weights
from thinkling.tokenizer.pretokenizers import KNOWN, build_byte_level_bpe
from thinkling.tokenizer.tokenizer import Tokenizer

FAMILIES = ["llama", "mistral", "qwen2", "qwen3"]
TOLERANCE = 2e-5
"""Logits of float32 models of two layers: about 100 roundings of 2^-24 of values around 1, with a margin of 3."""
TOKENS = torch.tensor([5, 11, 3, 250, 7, 7, 100, 42])


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    from tokenizers import pre_tokenizers

    folder = tmp_path_factory.mktemp("tokenizer")
    names = ["<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    build_byte_level_bpe(names, [3, 3] + [1] * 256, [], KNOWN["smollm"]).save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer.load(folder)


def sizes(family: str, *, tied: bool) -> ModelConfig:
    return ModelConfig(
        family=family,
        vocab_size=260,
        width=32,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_width=16,  # not width / heads: a family's default must not slip in
        ffn_width=48,
        max_positions=64,
        norm_epsilon=1e-4,
        rope_theta=5000.0,
        tied_embeddings=tied,
        attention_bias=family == "qwen2",
        qk_norm=family == "qwen3",
    )


def random_model(family: str, *, tied: bool = True) -> Decoder:
    """Two layers whose every parameter is random, norms and biases too: a forgotten one shows in the logits."""
    torch.manual_seed(0)
    model = Decoder(sizes(family, tied=tied))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(1.0 if "norm" in name else 0.0, 0.2)
    return model


def our_logits(model: Decoder) -> Tensor:
    with torch.no_grad():
        starts = torch.tensor([0, len(TOKENS)])
        return model.logits(model(TOKENS, torch.arange(len(TOKENS)), PackedAttend(starts)))


def their_model(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def their_logits(model: Any) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(TOKENS.unsqueeze(0)).logits[0]
    return logits


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_transformers_computes_the_same_from_what_we_saved(tmp_path, tokenizer, family, tied):
    model = random_model(family, tied=tied)
    save_folder(model, tokenizer, tmp_path / "model")
    assert torch.allclose(
        their_logits(their_model(tmp_path / "model")), our_logits(model), atol=TOLERANCE, rtol=TOLERANCE
    )


LINEAR = {"rope_type": "linear", "factor": 4.0}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}


@pytest.mark.parametrize("form", [["rope_parameters"], ["rope_theta", "rope_scaling"]], ids=["five", "four"])
@pytest.mark.parametrize("scaling", [None, LINEAR, LLAMA3], ids=["none", "linear", "llama3"])
def test_rope_is_written_for_transformers_5_and_for_what_reads_the_older_form(tmp_path, tokenizer, scaling, form):
    torch.manual_seed(0)
    model = Decoder(dataclasses.replace(sizes("llama", tied=True), rope_scaling=scaling))
    save_folder(model, tokenizer, tmp_path / "model")
    wanted = our_logits(model)
    assert torch.allclose(their_logits(their_model(tmp_path / "model")), wanted, atol=TOLERANCE, rtol=TOLERANCE)
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    for key in {"rope_parameters", "rope_theta", "rope_scaling"} - set(form):
        del values[key]  # each form says all there is to say, to them and to us
    (tmp_path / "model" / "config.json").write_text(json.dumps(values))
    assert torch.allclose(their_logits(their_model(tmp_path / "model")), wanted, atol=TOLERANCE, rtol=TOLERANCE)
    assert load_folder(tmp_path / "model")[0].config == model.config


@pytest.mark.parametrize("shards", ["10GB", "20KB"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_we_compute_the_same_from_what_transformers_saved(tmp_path, tokenizer, family, tied, shards):
    save_folder(random_model(family, tied=tied), tokenizer, tmp_path / "ours")
    theirs = their_model(tmp_path / "ours")
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=shards)
    tokenizer.save(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists() == (shards == "20KB")
    model, _ = load_folder(tmp_path / "theirs")
    assert torch.allclose(our_logits(model), their_logits(theirs), atol=TOLERANCE, rtol=TOLERANCE)
    assert model.config == sizes(family, tied=tied)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 9000])
def test_save_then_load_gives_every_bit_again(tmp_path, tokenizer, max_shard_bytes):
    model = random_model("qwen3", tied=False)
    save_folder(model, tokenizer, tmp_path / "model", max_shard_bytes=max_shard_bytes)
    again, again_tokenizer = load_folder(tmp_path / "model")
    wanted, found = dict(model.named_parameters()), dict(again.named_parameters())
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) and found[name].requires_grad for name in wanted)
    assert again_tokenizer.encode("42") == tokenizer.encode("42")


def test_shards_of_ours_are_read_by_transformers(tmp_path, tokenizer):
    model = random_model("llama")
    save_folder(model, tokenizer, tmp_path / "model", max_shard_bytes=9000)
    assert len(list((tmp_path / "model").glob("*.safetensors"))) > 3
    assert torch.allclose(
        their_logits(their_model(tmp_path / "model")), our_logits(model), atol=TOLERANCE, rtol=TOLERANCE
    )


def test_the_saved_dtype_is_kept_unless_another_is_asked_for(tmp_path, tokenizer):
    save_folder(random_model("llama").to(torch.bfloat16), tokenizer, tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == "bfloat16"
    assert load_folder(tmp_path / "model")[0].dtype == torch.bfloat16
    assert load_folder(tmp_path / "model", dtype=torch.float32)[0].dtype == torch.float32


def test_tied_weights_are_one_tensor_after_loading_and_once_on_disk(tmp_path, tokenizer):
    save_folder(random_model("llama"), tokenizer, tmp_path / "model")
    model, _ = load_folder(tmp_path / "model")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert "lm_head.weight" not in load_file(tmp_path / "model" / "model.safetensors")


def test_a_loaded_model_lets_go_of_its_files(tmp_path, tokenizer):
    save_folder(random_model("llama"), tokenizer, tmp_path / "model")
    model, _ = load_folder(tmp_path / "model")
    wanted = our_logits(model)
    file = tmp_path / "model" / "model.safetensors"
    with open(file, "r+b") as opened:  # in place: a tensor still mapped to the file would change
        opened.write(bytes(file.stat().st_size))
    assert torch.equal(our_logits(model), wanted)


def test_a_save_that_fails_leaves_the_old_folder(tmp_path, tokenizer, monkeypatch):
    model = random_model("llama")
    save_folder(model, tokenizer, tmp_path / "model")
    wanted = (tmp_path / "model" / "model.safetensors").read_bytes()
    monkeypatch.setattr("thinkling.model.folder.write_weights", _no_space)
    with pytest.raises(ModelError, match="stopped"):
        save_folder(random_model("llama", tied=False), tokenizer, tmp_path / "model")
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == wanted
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]


def _no_space(*_: object, **__: object) -> None:
    raise ModelError("stopped")


# refused ------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    save_folder(random_model("llama"), tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def sharded(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    save_folder(random_model("llama"), tokenizer, tmp_path / "model", max_shard_bytes=9000)
    return tmp_path / "model"


@pytest.fixture
def sharded_index(tmp_path: Path, tokenizer: Tokenizer) -> str:
    save_folder(random_model("llama"), tokenizer, tmp_path / "older", max_shard_bytes=9000)
    return (tmp_path / "older" / "model.safetensors.index.json").read_text()


def edit(folder: Path, **changes: Tensor | None) -> None:
    """Rewrite the weights with some tensors put in or (None) left out; `__` stands for a point."""
    tensors: dict[str, Tensor | None] = dict(load_file(folder / "model.safetensors"))
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / "model.safetensors")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "last.ckpt"])
def test_a_folder_of_pickles_is_refused_with_the_mend(saved, name):
    (saved / "model.safetensors").rename(saved / name)
    with pytest.raises(ModelError, match="is a pickle") as error:
        load_folder(saved)
    assert "safetensors" in error.value.fix


def test_a_pickle_beside_good_weights_is_not_touched(saved):
    (saved / "training_args.bin").write_bytes(b"not even a pickle")
    load_folder(saved)


def test_a_pickle_named_itself_is_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="is a pickle"):
        load_folder(tmp_path / "model.bin")


@pytest.mark.parametrize("keep", [0, 4, 100, 20000])
def test_weights_cut_short_are_an_error_that_names_the_file(saved, keep):
    content = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(content[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        load_folder(saved)


def test_a_missing_tensor_is_named(saved):
    edit(saved, model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(ModelError, match=r"lack model\.layers\.1\.mlp\.up_proj\.weight"):
        load_folder(saved)


def test_a_tensor_too_many_is_named(saved):
    edit(saved, model__layers__0__self_attn__q_proj__bias=torch.zeros(64))
    with pytest.raises(ModelError, match=r"hold model\.layers\.0\.self_attn\.q_proj\.bias"):
        load_folder(saved)


def test_a_tensor_of_another_shape_is_named_with_both_shapes(saved):
    edit(saved, model__norm__weight=torch.zeros(31))
    with pytest.raises(ModelError, match=r"norm\.weight has the shape \(31,\), and config\.json promises \(32,\)"):
        load_folder(saved)


def test_a_tied_head_written_twice_is_taken_when_equal_and_refused_when_not(saved):
    embedding = load_file(saved / "model.safetensors")["model.embed_tokens.weight"]
    edit(saved, lm_head__weight=embedding.clone())
    load_folder(saved)
    edit(saved, lm_head__weight=embedding + 1)
    with pytest.raises(ModelError, match="two different ones"):
        load_folder(saved)


def test_the_rotary_table_of_old_llama_folders_is_left_out(saved):
    edit(saved, model__layers__0__self_attn__rotary_emb__inv_freq=torch.zeros(8))
    load_folder(saved)


def test_a_missing_shard_is_named(sharded):
    lost = sorted(sharded.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ModelError, match=f"the shard {lost.name} is missing"):
        load_folder(sharded)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/passwd", "weights.bin"])
def test_an_index_may_name_only_safetensors_of_its_own_folder(sharded, shard):
    index = sharded / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["model.norm.weight"] = shard
    index.write_text(json.dumps(values))
    with pytest.raises(ModelError, match="not a safetensors file of this folder"):
        load_folder(sharded)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"weight_map": 3}', '{"weight_map": {"a": 3}}'])
def test_a_damaged_index_is_an_error_that_names_it(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ModelError, match="index") as error:
        load_folder(sharded)
    assert str(sharded) in error.value.where


def test_an_index_that_promises_more_than_its_shard_holds_is_refused(sharded):
    index = sharded / "model.safetensors.index.json"
    values = json.loads(index.read_text())
    values["weight_map"]["lm_head.weight"] = values["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(values))
    with pytest.raises(ModelError, match=r"lacks lm_head\.weight"):
        load_folder(sharded)


@pytest.mark.parametrize(
    ("text", "words"),
    [(None, "no config.json"), ("{", "damaged"), ("[3]", "damaged"), ("[]", "family"), ("{}", "family")],
)
def test_a_config_that_is_absent_or_damaged_is_an_error(saved, text, words):
    (saved / "config.json").unlink()
    if text is not None:
        (saved / "config.json").write_text(text)
    with pytest.raises(ModelError, match=words):
        load_folder(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": "32"},
        {"hidden_size": None},
        {"num_hidden_layers": 2.5},
        {"num_attention_heads": 0},
        {"num_key_value_heads": -2},
        {"num_key_value_heads": 3},
        {"head_dim": 15},
        {"intermediate_size": [48]},
        {"vocab_size": True},
        {"max_position_embeddings": "many"},
        {"sliding_window": "wide"},
        {"rms_norm_eps": float("nan")},
        {"rope_parameters": {"rope_theta": -1.0}},
        {"rope_scaling": "linear"},
        {"rope_scaling": {"rope_type": "linear"}},
        {"rope_scaling": {"rope_type": ["linear"]}},
        {"rope_scaling": {**LLAMA3, "high_freq_factor": 1.0}},
        {"rope_scaling": {**LINEAR, "partial_rotary_factor": 0.5}},
        {"quantization_config": {"quant_method": "fp8"}},
    ],
    ids=str,
)
def test_a_config_that_says_what_no_model_is_is_refused(saved, changes):
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**values, **changes}))
    with pytest.raises(ModelError) as error:
        load_folder(saved)
    assert str(saved) in error.value.where


def test_a_mistral_that_does_not_speak_of_a_window_has_that_of_transformers():
    from transformers import MistralConfig

    values = {**to_hugging_face(sizes("mistral", tied=True)), "max_position_embeddings": 8192}
    from_hugging_face(values, "test")
    del values["sliding_window"]
    assert MistralConfig(**values).sliding_window == 4096
    with pytest.raises(ModelError, match="sliding attention window"):
        from_hugging_face(values, "test")


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "model.safetensors.index.json"])
def test_a_file_nested_deeper_than_can_be_read_is_an_error(sharded, name):
    (sharded / name).write_text("[" * 100_000)
    with pytest.raises(ModelError, match="damaged"):
        load_folder(sharded)


def test_weights_that_are_no_decimals_are_refused(saved):
    edit(saved, model__norm__weight=torch.ones(32, dtype=torch.int32))
    with pytest.raises(ModelError, match=r"model\.norm\.weight .* int32"):
        load_folder(saved)


def test_one_whole_file_has_the_word_over_an_index_left_by_an_older_save(saved, sharded_index):
    (saved / "model.safetensors.index.json").write_text(sharded_index)  # its shards are gone
    load_folder(saved)


@pytest.mark.parametrize(("key", "value"), [("num_hidden_layers", 10**9), ("hidden_size", 2**62)])
def test_sizes_that_no_model_has_are_refused_before_anything_is_built(saved, key, value):
    values = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**values, key: value}))
    with pytest.raises(ModelError, match=r"layers promised|no model has these sizes"):
        load_folder(saved)


def test_a_folder_without_weights_says_which_file_it_wants(saved):
    (saved / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="no weights") as error:
        load_folder(saved)
    assert error.value.where.endswith("model.safetensors")


def test_every_tensor_is_in_exactly_one_shard_and_the_index_says_which(tmp_path):
    tensors = {name: torch.full((size,), float(size)) for name, size in [("a", 10), ("b", 10), ("c", 100), ("d", 1)]}
    sizes_ = {name: tensor.numel() * 4 for name, tensor in tensors.items()}
    write_weights(sizes_, tensors.__getitem__, tmp_path, max_shard_bytes=80)  # a + b = 80 bytes; c alone is too large
    found = {file.name: sorted(load_file(file)) for file in sorted(tmp_path.glob("*.safetensors"))}
    assert list(found.values()) == [["a", "b"], ["c"], ["d"]]
    assert {name: place.name for name, place in weight_files(tmp_path).items()} == {
        name: file for file, names in found.items() for name in names
    }


def test_a_folder_that_was_moved_loads_as_before(saved, tmp_path):
    shutil.move(saved, tmp_path / "elsewhere")
    load_folder(tmp_path / "elsewhere")
