"""The shape of a decoder in our words, and how each family's Hugging Face config says the same.

One small mapping per family; a field that we do not carry out (sliding windows, rope scaling of an unknown kind,
experts) is refused by name, never ignored.
"""

from __future__ import annotations

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


def from_hugging_face(values: Mapping[str, Any], where: str) -> ModelConfig:
    """config.json to our config.

    Raises:
        ModelError: An unknown family, or a feature that the packed decoder does not carry out.
    """
    family = str(values.get("model_type", ""))
    if family not in FAMILIES:
        raise ModelError(
            f"the model family '{family or '(none given)'}' is not known here",
            where=where,
            fix=f"use a model of one of these families: {', '.join(FAMILIES)}",
        )
    _refuse_unsupported(values, where)
    missing = [
        k
        for k in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
        if k not in values
    ]
    if missing:
        raise ModelError(f"config.json lacks {', '.join(missing)}", where=where, fix="fetch the model again")
    n_heads = int(values["num_attention_heads"])
    head_width = values.get("head_dim") or (128 if family == "qwen3" else int(values["hidden_size"]) // n_heads)
    theta, scaling = _rope(values, where)
    return ModelConfig(
        family=family,
        vocab_size=int(values["vocab_size"]),
        width=int(values["hidden_size"]),
        n_layers=int(values["num_hidden_layers"]),
        n_heads=n_heads,
        n_kv_heads=int(values.get("num_key_value_heads") or n_heads),
        head_width=int(head_width),
        ffn_width=int(values["intermediate_size"]),
        max_positions=int(values.get("max_position_embeddings") or 2048),
        norm_epsilon=float(values.get("rms_norm_eps") or 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied_embeddings=bool(values.get("tie_word_embeddings", False)),
        attention_bias=FAMILIES[family].get("attention_bias", False),
        qk_norm=FAMILIES[family].get("qk_norm", False),
    )


def _refuse_unsupported(values: Mapping[str, Any], where: str) -> None:
    window = values.get("sliding_window")
    positions = int(values.get("max_position_embeddings") or 2048)
    windowed = window is not None and values.get("use_sliding_window", True) and int(window) < positions
    reasons = {
        "a sliding attention window": windowed,
        "biases on the feed-forward matrices": values.get("mlp_bias", False),
        "a bias on attention in this family": values.get("attention_bias", False),
        f"the activation {values.get('hidden_act')}": values.get("hidden_act", "silu") not in ("silu", "swish"),
    }
    for what, present in reasons.items():
        if present:
            raise ModelError(
                f"this model uses {what}, which the packed decoder does not carry out",
                where=where,
                fix="choose another model",
            )


def _rope(values: Mapping[str, Any], where: str) -> tuple[float, Mapping[str, Any] | None]:
    """Theta and scaling, from `rope_parameters` (transformers 5) or `rope_theta` + `rope_scaling` (4)."""
    parameters = dict(values.get("rope_parameters") or values.get("rope_scaling") or {})
    theta = float(parameters.pop("rope_theta", None) or values.get("rope_theta") or 10000.0)
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind not in ("linear", "llama3"):
        raise ModelError(
            f"rope scaling '{kind}' is not carried out here", where=where, fix="known: default, linear, llama3"
        )
    return theta, {**parameters, "rope_type": kind}


def to_hugging_face(config: ModelConfig) -> dict[str, Any]:
    """The config.json that transformers reads, dtype and token ids left to the caller."""
    rope: dict[str, Any] = {"rope_theta": config.rope_theta, "rope_type": "default", **(config.rope_scaling or {})}
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
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_act": "silu",
        **({"sliding_window": None} if config.family in ("mistral", "qwen2", "qwen3") else {}),
        **({"attention_bias": False} if config.family in ("llama", "qwen3") else {}),
    }
