"""Prefix tuning: trained keys and values of a few tokens that do not exist stand before every sequence, in each layer.

Li & Liang 2021 (arXiv:2101.00190), section 4. They begin as the keys and values of drawn tokens of the vocabulary (the
paper's section 7.4: activations of real words), so that the tuned model begins as the base model behind a few arbitrary
tokens. With `prefix_projection` they are trained through a small network (section 4.3), here as what it adds to those
first values; an adapter file holds the keys and values alone. Given as they are: a later token sees them unrotated, as
PEFT has it.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from thinkling.core.config import Config as Settings
from thinkling.core.rng import seed_from
from thinkling.model.attend import KeysValues
from thinkling.model.config import ModelConfig
from thinkling.model.decoder import Decoder
from thinkling.model.virtual import common_embeddings, make_room

IS_ADAPTER = True
MERGES = False
STARTS_AS_BASE = False
LEARNING_RATE = 1e-3
"""Ours; the paper has 5e-5 to 8e-5 for GPT-2."""


class Config(Settings):
    """How many virtual tokens, and what they are trained through."""

    num_virtual_tokens: int = Field(20, ge=1)
    """Each takes the room of a token in the model's context."""
    prefix_projection: bool = True
    """Train them through a small network, which is dropped afterwards; the paper found training unstable without."""
    encoder_hidden_size: int = Field(512, ge=1, le=2**16)
    """Width of that network."""
    seed: int = 0
    """Draws the tokens that they begin as, and the network's first values."""


class PrefixTokens(nn.Module):
    """Keys and values of n tokens in every layer, trained as they are: `prompt_embeddings` (n, L * 2 * K * E), fp32."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.n = len(values)
        self.prompt_embeddings = nn.Parameter(values)

    def values(self) -> Tensor:
        """(n, L * 2 * K * E): layer by layer the keys, then the values."""
        return self.prompt_embeddings

    def forward(self, model: Decoder) -> KeysValues:
        """What later tokens see of them in each layer."""
        config = model.config
        shape = (self.n, config.n_layers, 2, config.n_kv_heads, config.head_width)
        layers = self.values().to(model.dtype).view(shape).unbind(1)
        return [(layer[:, 0], layer[:, 1]) for layer in layers]


class ProjectedTokens(PrefixTokens):
    """The same, trained as what a two-layer network adds to their first values; it adds nothing at first."""

    def __init__(self, values: Tensor, width: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__(values)
        self.prompt_embeddings.requires_grad_(False)
        device = values.device
        self.embedding = nn.Parameter(_normal((self.n, width), generator, device))  # P' of the paper
        self.first = nn.Parameter(_normal((hidden, width), generator, device) * width**-0.5)
        self.first_bias = nn.Parameter(torch.zeros(hidden, device=device))
        self.last = nn.Parameter(torch.zeros(values.shape[1], hidden, device=device))
        self.last_bias = nn.Parameter(torch.zeros(values.shape[1], device=device))

    def values(self) -> Tensor:
        inner = torch.tanh(nn.functional.linear(self.embedding, self.first, self.first_bias))  # (n, hidden)
        return self.prompt_embeddings + nn.functional.linear(inner, self.last, self.last_bias)


def _normal(shape: tuple[int, int], generator: torch.Generator, device: torch.device) -> Tensor:
    """The same draws on every device; on `meta`, where a run is planned, none."""
    if device.type == "meta":
        return torch.empty(shape, device=device)
    return torch.randn(shape, generator=generator).to(device)


def apply(model: Decoder, config: Config) -> None:
    """The prefix stands before every sequence, and alone, or the network that makes it, is trained.

    Raises:
        ConfigError: It leaves no room for a sequence.
    """
    make_room(model, config.num_virtual_tokens)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed_from("prefix", config.seed))
    values = _values_of_drawn_tokens(model, config.num_virtual_tokens, generator)
    model.virtual = (
        ProjectedTokens(values, model.config.width, config.encoder_hidden_size, generator)
        if config.prefix_projection
        else PrefixTokens(values)
    )


@torch.no_grad()
def _values_of_drawn_tokens(model: Decoder, n: int, generator: torch.Generator) -> Tensor:
    """(n, L * 2 * K * E) fp32."""
    drawn = common_embeddings(model, n, generator)
    if drawn.is_meta:
        return torch.empty(n, _numbers(model.config), device="meta")
    layers = [torch.stack(pair, dim=1).flatten(1) for pair in model.keys_values(drawn)]  # L of (n, 2 * K * E)
    return torch.cat(layers, dim=1).float()


def _numbers(config: ModelConfig) -> int:
    """Keys and values of one token in all layers."""
    return config.n_layers * 2 * config.n_kv_heads * config.head_width


def for_inference(model: Decoder, config: Config) -> tuple[Config, dict[str, Tensor]]:
    """Settings and tensors of the same function without the network that only training needs."""
    assert isinstance(model.virtual, PrefixTokens)
    plain = config.model_copy(update={"prefix_projection": False})
    return plain, {"virtual.prompt_embeddings": model.virtual.values().detach()}


def peft_config(config: Config, model: Decoder) -> dict[str, Any] | None:
    """adapter_config.json of PEFT's prefix tuning; its heads are those of the keys."""
    shape = model.config
    return {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": config.num_virtual_tokens,
        "token_dim": shape.n_kv_heads * shape.head_width,
        "num_transformer_submodules": 1,
        "num_attention_heads": shape.n_kv_heads,
        "num_layers": shape.n_layers,
        "encoder_hidden_size": None,
        "prefix_projection": False,
    }
