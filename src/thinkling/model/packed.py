"""What decoding computes with: `pack(model)` derives it from the one owner of the weights.

It is run again when the weights change (0.2 s for 135M parameters). Queries, keys and values become one product and
gate and up another; on a CPU with bf16 units each matrix is reordered once into the layout the units read, with the
same bits as a plain linear (tests/test_packed.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from thinkling.model.attend import Attend
from thinkling.model.config import ModelConfig
from thinkling.model.decoder import Attention, Block, Decoder, rope_table
from thinkling.model.functions import rotate

Product = Callable[[Tensor], Tensor]
"""(B, in) -> (B, out) with fixed weights."""


@functools.cache
def can_prepack() -> bool:
    """Whether this build has oneDNN's reordered bf16 linear, and it agrees with the plain one.

    The operators are private to torch, so they are tried and compared before they are trusted.
    """
    try:
        weight = torch.linspace(-1, 1, 64 * 96, dtype=torch.float32).view(64, 96).bfloat16()
        x = torch.linspace(-1, 1, 4 * 96, dtype=torch.float32).view(4, 96).bfloat16()
        out = _prepacked(weight, None)(x)
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return bool(torch.equal(out, F.linear(x, weight)))


def _prepacked(weight: Tensor, bias: Tensor | None) -> Product:
    reordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), None)
    kept_bias = bias.detach().clone() if bias is not None else None

    def product(x: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(x, reordered, kept_bias, "none", [], "")
        return out

    return product


def _product(weight: Tensor, bias: Tensor | None, prepack: bool) -> Product:
    if prepack:
        return _prepacked(weight, bias)
    kept, kept_bias = weight.detach(), bias.detach() if bias is not None else None
    return lambda x: F.linear(x, kept, kept_bias)


class PackedBlock:
    """One block with fused products: x (B, D) -> (B, D)."""

    def __init__(self, block: Block, config: ModelConfig, prepack: bool) -> None:
        attention: Attention = block.self_attn
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        bias = torch.cat([p.bias for p in parts]) if config.attention_bias else None
        self.qkv = _product(torch.cat([p.weight for p in parts]), bias, prepack)
        self.o = _product(attention.o_proj.weight, None, prepack)
        self.gate_up = _product(torch.cat([block.mlp.gate_proj.weight, block.mlp.up_proj.weight]), None, prepack)
        self.down = _product(block.mlp.down_proj.weight, None, prepack)
        self.block = block
        self.config = config

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend) -> Tensor:
        config, attention = self.config, self.block.self_attn
        h, k = config.n_heads, config.n_kv_heads
        mixed = self.qkv(self.block.input_layernorm(x)).unflatten(-1, (h + 2 * k, config.head_width))  # (B, H + 2K, E)
        queries, keys = mixed[:, :h], mixed[:, h : h + k]
        if config.qk_norm:
            queries, keys = attention.q_norm(queries), attention.k_norm(keys)
            turned = rotate(torch.cat([queries, keys], dim=1), cos, sin)
        else:
            turned = rotate(mixed[:, : h + k], cos, sin)  # (B, H + K, E)
        out = attend(attention.layer, turned[:, :h], turned[:, h:], mixed[:, h + k :])  # (B, H, E)
        x = x + self.o(out.flatten(1))
        gate, up = self.gate_up(self.block.post_attention_layernorm(x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


class PackedDecoder:
    """`Decoder.forward` and `logits` without gradients, on fused weights."""

    def __init__(self, model: Decoder, prepack: bool) -> None:
        self.model = model
        self.config = model.config
        self.blocks = [PackedBlock(block, model.config, prepack) for block in model.model.layers]  # type: ignore[arg-type]
        self.head = _product(model.lm_head.weight, None, prepack)

    @torch.inference_mode()
    def __call__(self, tokens: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Hidden states after the last norm: tokens, positions (N,) -> (N, D)."""
        x = F.embedding(tokens, self.model.model.embed_tokens.weight)  # (N, D)
        cos, sin = rope_table(self.config, positions, x.dtype)
        for block in self.blocks:
            x = block(x, cos, sin, attend)
        out: Tensor = self.model.model.norm(x)
        return out

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """(M, D) -> (M, V), fp32."""
        return self.head(hidden).float()


@torch.inference_mode()
def pack(model: Decoder) -> PackedDecoder:
    """Decode weights derived from `model` as it is now. Pack again after any change: some are copies, others shared."""
    return PackedDecoder(model, prepack=model.device.type == "cpu" and model.dtype == torch.bfloat16 and can_prepack())
