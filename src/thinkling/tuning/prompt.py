"""Prompt tuning: a few embeddings of tokens that do not exist are trained, and stand before every sequence.

Lester et al. 2021 (arXiv:2104.08691), sections 2 and 3.2. They begin as embeddings of tokens drawn from the common ones
of the vocabulary (the paper's "sampled vocab"), so that the tuned model begins as the base model behind a few arbitrary
tokens, not as the base model alone. In a packed stream they are computed once and seen by all sequences.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from thinkling.core.config import Config as Settings
from thinkling.core.rng import seed_from
from thinkling.model.attend import KeysValues
from thinkling.model.decoder import Decoder
from thinkling.model.virtual import common_embeddings, make_room

IS_ADAPTER = True
MERGES = False
STARTS_AS_BASE = False
LEARNING_RATE = 1e-2
"""Ours, for AdamW; the paper has 0.3 for Adafactor."""


class Config(Settings):
    """How many virtual tokens."""

    num_virtual_tokens: int = Field(20, ge=1)
    """Beyond 20 the paper finds little more; each takes the room of a token in the model's context."""
    seed: int = 0
    """Draws the tokens that they begin as."""


class PromptTokens(nn.Module):
    """n trained embeddings, fp32."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.n = len(embeddings)
        self.prompt_embeddings = nn.Parameter(embeddings)  # (n, D)

    def forward(self, model: Decoder) -> KeysValues:
        """Their keys and values in each layer: what later tokens see of them."""
        return model.keys_values(self.prompt_embeddings.to(model.dtype))


def apply(model: Decoder, config: Config) -> None:
    """The virtual tokens stand before every sequence, and alone are trained.

    Raises:
        ConfigError: They leave no room for a sequence.
    """
    make_room(model, config.num_virtual_tokens)
    model.requires_grad_(False)
    drawn = common_embeddings(
        model, config.num_virtual_tokens, torch.Generator().manual_seed(seed_from("prompt", config.seed))
    )
    model.virtual = PromptTokens(drawn.float())


def peft_config(config: Config, model: Decoder) -> dict[str, Any] | None:
    """adapter_config.json of PEFT's prompt tuning."""
    return {
        "peft_type": "PROMPT_TUNING",
        "num_virtual_tokens": config.num_virtual_tokens,
        "token_dim": model.config.width,
        "num_transformer_submodules": 1,
        "num_attention_heads": model.config.n_heads,
        "num_layers": model.config.n_layers,
        "prompt_tuning_init": "RANDOM",
    }
