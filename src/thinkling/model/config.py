"""The shape of a decoder in our words, and how each family's Hugging Face config says the same.

One small mapping per family; a field that we do not carry out (sliding windows, rope scaling of an unknown kind,
experts) is refused by name, never ignored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from thinkling.core.errors import ModelError


@dataclass(frozen=True)
class ModelConfig:
    """Sizes and switches of one decoder."""

    family: str
    """Hugging Face model_type: llama, mistral, qwen2, qwen3."""
    vocab_size: int
    width: int
    """D."""
    n_layers: int
    n_heads: int
    """H."""
    n_kv_heads: int
    """K; H / K query heads share one key/value head."""
    head_width: int
    """E."""
    ffn_width: int
    max_positions: int
    norm_epsilon: float = 1e-5
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] | None = None
    """Hugging Face's rope parameters where they are more than a theta: linear or llama3."""
    tied_embeddings: bool = True
    attention_bias: bool = False
    """Bias on q, k and v (Qwen2)."""
    qk_norm: bool = False
    """RMSNorm on each head of q and k before rotation (Qwen3)."""

    @property
    def n_parameters(self) -> int:
        """Parameters, tied ones counted once."""
        attention = self.width * self.head_width * (2 * self.n_heads + 2 * self.n_kv_heads)
        attention += self.head_width * (self.n_heads + 2 * self.n_kv_heads) if self.attention_bias else 0
        attention += 2 * self.head_width if self.qk_norm else 0
        block = attention + 3 * self.width * self.ffn_width + 2 * self.width
        return self.n_layers * block + self.width + self.vocab_size * self.width * (1 if self.tied_embeddings else 2)

    @property
    def matrix_parameters(self) -> int:
        """Parameters of the block matrices: what each token is multiplied with, head and embedding left out."""
        attention = self.width * self.head_width * (2 * self.n_heads + 2 * self.n_kv_heads)
        return self.n_layers * (attention + 3 * self.width * self.ffn_width)


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "qwen2": {"attention_bias": True},
    "qwen3": {"qk_norm": True},
}
"""model_type to what its config.json does not say but its code does."""

ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


ABSENT_WINDOW = {"mistral": 4096}
"""What transformers takes for `sliding_window` where config.json does not have the key; null means none."""

SCALINGS = {
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
}
"""Rope scaling to the numbers that it needs."""


def from_hugging_face(values: Mapping[str, Any], where: str) -> ModelConfig:
    """config.json to our config.

    Raises:
        ModelError: An unknown family, a feature that the packed decoder does not carry out, or sizes of no model.
    """
    family = str(values.get("model_type", ""))
    if family not in FAMILIES:
        raise ModelError(
            f"the model family '{family or '(none given)'}' is not known here",
            where=where,
            fix=f"use a model of one of these families: {', '.join(FAMILIES)}",
        )
    missing = [
        k
        for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        if k not in values
    ]
    if missing:
        raise ModelError(f"config.json lacks {', '.join(missing)}", where=where, fix="fetch the model again")
    _refuse_unsupported(family, values, where)
    width, n_heads = _whole(values, "hidden_size", where), _whole(values, "num_attention_heads", where)
    theta, scaling = _rope(values, where)
    config = ModelConfig(
        family=family,
        vocab_size=_whole(values, "vocab_size", where),
        width=width,
        n_layers=_whole(values, "num_hidden_layers", where),
        n_heads=n_heads,
        n_kv_heads=_whole(values, "num_key_value_heads", where, n_heads),
        head_width=_whole(values, "head_dim", where, 128 if family == "qwen3" else width // n_heads),
        ffn_width=_whole(values, "intermediate_size", where),
        max_positions=_whole(values, "max_position_embeddings", where, 2048),
        norm_epsilon=_number(values, "rms_norm_eps", where, 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied_embeddings=bool(values.get("tie_word_embeddings", False)),
        attention_bias=FAMILIES[family].get("attention_bias", False),
        qk_norm=FAMILIES[family].get("qk_norm", False),
    )
    refuse_impossible_heads(config, where)
    return config


def refuse_impossible_heads(config: ModelConfig, where: str) -> None:
    """Sizes that are each a size, and that no attention has together.

    Raises:
        ModelError: Heads that cannot be rotated by halves, or key/value heads that cannot be shared out.
    """
    faults = {
        f"heads of width {config.head_width}, and rotation needs pairs": config.head_width % 2,
        f"{config.n_heads} heads over {config.n_kv_heads} key/value heads": config.n_heads % config.n_kv_heads,
    }
    for what, present in faults.items():
        if present:
            raise ModelError(f"no model has {what}", where=where, fix="fetch the model again")


def _whole(values: Mapping[str, Any], key: str, where: str, default: int | None = None) -> int:
    value = default if values.get(key) is None else values[key]
    if type(value) is not int or value < 1:
        raise _no_size(key, value, where)
    return value


def _number(values: Mapping[str, Any], key: str, where: str, default: float | None = None) -> float:
    value = default if values.get(key) is None else values[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise _no_size(key, value, where)
    return float(value)


def _no_size(key: str, value: Any, where: str) -> ModelError:
    return ModelError(f"config.json says that {key} is {value!r:.50}", where=where, fix="fetch the model again")


def _refuse_unsupported(family: str, values: Mapping[str, Any], where: str) -> None:
    window = {"sliding_window": ABSENT_WINDOW.get(family), **values}
    positions = _whole(values, "max_position_embeddings", where, 2048)
    uses_window = window["sliding_window"] is not None and values.get("use_sliding_window", True)
    reasons = {
        "a sliding attention window": uses_window and _whole(window, "sliding_window", where) < positions,
        "biases on the feed-forward matrices": values.get("mlp_bias", False),
        "a bias on attention in this family": values.get("attention_bias", False),
        f"the activation {values.get('hidden_act')}": values.get("hidden_act", "silu") not in ("silu", "swish"),
        "quantised weights": values.get("quantization_config") is not None,
    }
    for what, present in reasons.items():
        if present:
            raise ModelError(
                f"this model uses {what}, which the packed decoder does not carry out",
                where=where,
                fix="choose another model",
            )


def _rope(values: Mapping[str, Any], where: str) -> tuple[float, Mapping[str, Any] | None]:
    """Theta and scaling, from `rope_theta` + `rope_scaling` (transformers 4) or `rope_parameters` (5).

    Where both stand, `rope_scaling` has the word, as in both editions of transformers.
    """
    given = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise _no_size("rope_parameters", given, where)
    parameters = {"rope_theta": values.get("rope_theta"), **given}
    theta = _number(parameters, "rope_theta", where, 10000.0)
    if (parameters.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ModelError("this model rotates a part of each head", where=where, fix="choose another model")
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise ModelError(
            f"rope scaling '{kind}' is not carried out here", where=where, fix="known: default, linear, llama3"
        )
    scaling = {key: _number(parameters, key, where) for key in SCALINGS[kind]}
    if kind == "llama3" and not scaling["low_freq_factor"] < scaling["high_freq_factor"]:
        raise _no_size("high_freq_factor", scaling["high_freq_factor"], where)
    return theta, {"rope_type": kind, **{key: parameters[key] for key in scaling}}  # as written: 8192 is no 8192.0


def to_hugging_face(config: ModelConfig) -> dict[str, Any]:
    """The config.json that transformers reads, dtype and token ids left to the caller."""
    rope = {"rope_type": "default", **(config.rope_scaling or {})}
    return {
        "architectures": [ARCHITECTURES[config.family]],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.ffn_width,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.n_kv_heads,
        "head_dim": config.head_width,
        "max_position_embeddings": config.max_positions,
        "rms_norm_eps": config.norm_epsilon,
        # Once for transformers 4 and the servers of its time, once for transformers 5: without the first they would
        # load the model, leave the scaling out, and talk.
        "rope_theta": config.rope_theta,
        "rope_scaling": config.rope_scaling,
        "rope_parameters": {"rope_theta": config.rope_theta, **rope},
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        **({"sliding_window": None} if config.family in ("mistral", "qwen2", "qwen3") else {}),
        **({"attention_bias": False} if config.family in ("llama", "qwen3") else {}),
    }
