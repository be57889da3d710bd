"""A GGUF file to a Hugging Face folder: weights unpacked once, tokenizer and chat template rebuilt.

Two things are not what they seem in such a file. The rows of q and k of Llama models lie in another order, because
llama.cpp rotates neighbours where Hugging Face rotates halves; and the pre-tokeniser is only named. The first is
undone here, the second is looked up in `tokenizer/pretokenizers.py`. What we do not know is refused by name: a wrong
guess would still talk.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thinkling.core.errors import ModelError
from thinkling.core.files import whole_folder
from thinkling.model.config import FAMILIES, ModelConfig, refuse_impossible_heads, to_hugging_face
from thinkling.model.folder import check_tensors
from thinkling.model.gguf_file import GgufFile, TensorPlace
from thinkling.model.weights import write_weights
from thinkling.tokenizer.pretokenizers import build_byte_level_bpe, known_pretokenizer

ARCHITECTURES = ("llama", "qwen2", "qwen3")
"""`general.architecture` to read; Mistral models say llama, and are the same computation."""
PERMUTED = ("llama",)

OUTER = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INNER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(
    path: Path, folder: Path, *, dtype: torch.dtype = torch.bfloat16, notes: Mapping[str, Any] | None = None
) -> None:
    """Unpack a GGUF file into a Hugging Face folder that appears whole or not at all.

    Args:
        path: The file.
        folder: Where the folder shall be.
        dtype: Of the saved weights. bfloat16 moves a value by at most 1 part in 256, far less than the block format
            did before; float32 keeps every unpacked value.
        notes: Written beside the weights as thinkling.json: where the file came from.

    Raises:
        ModelError: Not a GGUF file, damaged, or of an architecture, tensor or tokenizer unknown here.
    """
    file = GgufFile(path)
    config = read_config(file)
    names = {hugging_face_name(file, name): place for name, place in file.tensors.items()}
    check_tensors({name: place.shape for name, place in names.items()}, config, str(path))
    tokenizer_files = _tokenizer_files(file)
    with whole_folder(folder) as new:
        for name, content in {**tokenizer_files, "config.json": _config_json(file, config, dtype)}.items():
            (new / name).write_text(content, encoding="utf-8")
        if notes:
            (new / "thinkling.json").write_text(json.dumps(notes, indent=2) + "\n", encoding="utf-8")
        sizes = {name: _elements(place) * dtype.itemsize for name, place in names.items()}
        write_weights(sizes, lambda name: unpack(file, names[name], config, dtype), new)


def read_config(file: GgufFile) -> ModelConfig:
    """The sizes of the model.

    Raises:
        ModelError: An unknown architecture, a missing fact, or a feature that the packed decoder does not carry out.
    """
    family = str(file.metadata.get("general.architecture"))
    if family not in ARCHITECTURES:
        raise ModelError(
            f"the GGUF architecture '{family}' is not known here",
            where=str(file.path),
            fix=f"known: {', '.join(ARCHITECTURES)}",
        )
    _refuse_unsupported(file, family)
    width, n_heads = _fact(file, f"{family}.embedding_length"), _fact(file, f"{family}.attention.head_count")
    config = ModelConfig(
        family=family,
        vocab_size=_embedding(file).shape[0],
        width=width,
        n_layers=_fact(file, f"{family}.block_count"),
        n_heads=n_heads,
        n_kv_heads=_fact(file, f"{family}.attention.head_count_kv", n_heads),
        head_width=_fact(file, f"{family}.attention.key_length", width // n_heads),
        ffn_width=_fact(file, f"{family}.feed_forward_length"),
        max_positions=_fact(file, f"{family}.context_length"),
        norm_epsilon=_decimal(file, f"{family}.attention.layer_norm_rms_epsilon"),
        rope_theta=_decimal(file, f"{family}.rope.freq_base", 10000.0),
        rope_scaling=_rope_scaling(file, family),
        tied_embeddings="output.weight" not in file.tensors,
        attention_bias=FAMILIES[family].get("attention_bias", False),
        qk_norm=FAMILIES[family].get("qk_norm", False),
    )
    refuse_impossible_heads(config, str(file.path))
    if _fact(file, f"{family}.rope.dimension_count", config.head_width) != config.head_width:
        raise _unsupported(file, "a rotation of a part of each head")
    return config


def _fact(file: GgufFile, key: str, default: int | None = None) -> int:
    value = file.metadata.get(key, default)
    if not isinstance(value, int) or value < 1:
        raise ModelError(f"the fact {key} is {value!r}", where=str(file.path), fix="fetch the file again")
    return value


def _decimal(file: GgufFile, key: str, default: float | None = None) -> float:
    """A float32 fact as the decimal that was meant: 9.999999747378752e-06 was written as 1e-05."""
    value = file.metadata.get(key, default)
    if not isinstance(value, float) or not 0 < value < math.inf:
        raise ModelError(f"the fact {key} is {value!r}", where=str(file.path), fix="fetch the file again")
    return float(f"{value:.6g}")


def _embedding(file: GgufFile) -> TensorPlace:
    if "token_embd.weight" not in file.tensors:
        raise ModelError(
            "there is no token embedding in it", where=str(file.path), fix="name a GGUF file of a whole language model"
        )
    return file.tensors["token_embd.weight"]


def _refuse_unsupported(file: GgufFile, family: str) -> None:
    facts = file.metadata
    scaling = facts.get(f"{family}.rope.scaling.type", "none")
    reasons = {
        "experts": facts.get(f"{family}.expert_count", 0) != 0,
        "a sliding attention window": facts.get(f"{family}.attention.sliding_window", 0) != 0,
        "rope factors of its own (rope_freqs.weight)": "rope_freqs.weight" in file.tensors,
        f"rope scaling '{scaling}'": scaling not in ("none", "linear"),
        "its other tensors in other files (split.count)": facts.get("split.count", 1) not in (0, 1),
    }
    for what, present in reasons.items():
        if present:
            raise _unsupported(file, what)


def _unsupported(file: GgufFile, what: str) -> ModelError:
    return ModelError(
        f"this file has {what}, which is not read here", where=str(file.path), fix="use its Hugging Face folder"
    )


def _rope_scaling(file: GgufFile, family: str) -> Mapping[str, Any] | None:
    if file.metadata.get(f"{family}.rope.scaling.type", "none") == "none":
        return None
    return {"rope_type": "linear", "factor": _decimal(file, f"{family}.rope.scaling.factor", 1.0)}


def hugging_face_name(file: GgufFile, name: str) -> str:
    """blk.0.attn_q.weight to model.layers.0.self_attn.q_proj.weight.

    Raises:
        ModelError: A tensor that we have no place for.
    """
    inner = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    outer = re.fullmatch(r"(\w+)\.(weight)", name)
    if inner and inner[2] in INNER:
        return f"model.layers.{inner[1]}.{INNER[inner[2]]}.{inner[3]}"
    if outer and outer[1] in OUTER:
        return f"{OUTER[outer[1]]}.{outer[2]}"
    raise ModelError(
        f"the tensor {name} is not known here", where=str(file.path), fix="use the Hugging Face folder of this model"
    )


def unpack(file: GgufFile, place: TensorPlace, config: ModelConfig, dtype: torch.dtype) -> Tensor:
    """One tensor as Hugging Face has it: numbers of `dtype`, rows of q and k in its order."""
    tensor = torch.empty(_elements(place), dtype=dtype)
    filled = 0
    for rows in file.rows(place):
        tensor[filled : filled + rows.size] = torch.from_numpy(rows).flatten()
        filled += rows.size
    tensor = tensor.view(place.shape)
    if config.family not in PERMUTED:
        return tensor
    if ".attn_q." in place.name:
        return unpermute(tensor, config.n_heads)
    if ".attn_k." in place.name:
        return unpermute(tensor, config.n_kv_heads)
    return tensor


def unpermute(rows: Tensor, n_heads: int) -> Tensor:
    """The rows of q or k from llama.cpp's order to Hugging Face's.

    Within a head of E rows llama.cpp has (0, E/2, 1, E/2 + 1, ...), for it rotates neighbours; Hugging Face has (0,
    1, ...) and rotates row i with row i + E/2.

    Args:
        rows: (heads * E, D) weight, or (heads * E,) bias.
        n_heads: H for q, K for k.
    """
    by_pairs = rows.view(n_heads, rows.shape[0] // n_heads // 2, 2, *rows.shape[1:])  # (heads, E/2, 2, D)
    return by_pairs.transpose(1, 2).reshape(rows.shape).contiguous()


def _elements(place: TensorPlace) -> int:
    return int(torch.Size(place.shape).numel())


def _config_json(file: GgufFile, config: ModelConfig, dtype: torch.dtype) -> str:
    values = {**to_hugging_face(config), "dtype": str(dtype).removeprefix("torch."), **_special_ids(file)}
    return json.dumps(values, indent=2) + "\n"


_SPECIAL = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}


def _special_ids(file: GgufFile, names: tuple[str, ...] = ("bos_token", "eos_token", "pad_token")) -> dict[str, int]:
    """{"eos_token_id": 2, ...} of those that the file names."""
    given = {f"{name}_id": file.metadata.get(f"tokenizer.ggml.{_SPECIAL[name]}_token_id") for name in names}
    return {key: value for key, value in given.items() if value is not None}


def _tokenizer_files(file: GgufFile) -> dict[str, str]:
    """tokenizer.json, tokenizer_config.json and generation_config.json as text."""
    facts = file.metadata
    kind = facts.get("tokenizer.ggml.model")
    if kind != "gpt2":
        raise ModelError(
            f"the tokenizer of this file is of the kind '{kind}'; byte-level BPE ('gpt2') alone is read",
            where=str(file.path),
            fix="use the Hugging Face folder of this model",
        )
    cut = known_pretokenizer(str(facts.get("tokenizer.ggml.pre", "(none given)")), str(file.path))
    tokens = _texts(file, "tokenizer.ggml.tokens")
    n_rows = _embedding(file).shape[0]
    if len(tokens) > n_rows:
        what = f"there are {len(tokens)} tokens and {n_rows} rows in the embedding"
        raise ModelError(what, where=str(file.path), fix="fetch the file again")
    special = {
        key.removesuffix("_id"): _at(file, tokens, number)
        for key, number in _special_ids(file, tuple(_SPECIAL)).items()
    }
    first = special.get("bos_token") if facts.get("tokenizer.ggml.add_bos_token", False) else None
    built = build_byte_level_bpe(
        tokens,
        _token_types(file, len(tokens)),
        _texts(file, "tokenizer.ggml.merges"),
        cut,
        first=first,
        where=str(file.path),
    )
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": _fact(file, f"{facts['general.architecture']}.context_length"),
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
        **special,
        **({"chat_template": _template(file)} if "tokenizer.chat_template" in facts else {}),
    }
    return {
        "tokenizer.json": built.to_str(pretty=False),
        "tokenizer_config.json": json.dumps(settings, indent=2, ensure_ascii=False) + "\n",
        "generation_config.json": json.dumps(_generation(file, tokens), indent=2) + "\n",
    }


def _generation(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    """The special ids, with the end of turn beside the end of text where the file tells them apart."""
    ids = _special_ids(file)
    turn = file.metadata.get("tokenizer.ggml.eot_token_id")
    if turn is None:
        return ids
    _at(file, tokens, turn)  # or it is none, which is an error
    ends = dict.fromkeys([ids.get("eos_token_id", turn), turn])
    return {**ids, "eos_token_id": list(ends) if len(ends) > 1 else turn}


def _template(file: GgufFile) -> str:
    template = file.metadata["tokenizer.chat_template"]
    if not isinstance(template, str):
        raise ModelError("the chat template is no text", where=str(file.path), fix="fetch the file again")
    return template


def _at(file: GgufFile, tokens: list[str], number: Any) -> str:
    if not isinstance(number, int) or not 0 <= number < len(tokens):
        raise ModelError(
            f"there is no token {number!r} for a special token", where=str(file.path), fix="fetch the file again"
        )
    return tokens[number]


def _texts(file: GgufFile, key: str) -> list[str]:
    value = file.metadata.get(key)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise ModelError(f"the tokenizer's list {key} is missing", where=str(file.path), fix="fetch the file again")
    return value


def _token_types(file: GgufFile, n_tokens: int) -> list[int]:
    value = file.metadata.get("tokenizer.ggml.token_type")
    if not isinstance(value, list) or len(value) != n_tokens:
        raise ModelError(
            "the file does not say which tokens are special",
            where=str(file.path),
            fix="use the Hugging Face folder of this model",
        )
    return value
