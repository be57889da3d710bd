"""What a training will need, before it starts: memory by phase, minutes, and whether it fits.

Formulas, checked against measurements in docs/benchmarks.md. They are estimates and say so; the report sets them beside
what came.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch

from thinkling.engine.coverage import Coverage
from thinkling.model.config import ModelConfig

GIB = 2**30
LIBRARIES_GIB = 0.45
"""Python, torch and the tokenizer, resident, before any weight."""
REACHED = {"cpu": 0.30, "cuda": 0.40}
"""Share of the measured peak product that a whole training step reaches. On two cores 0.23 to 0.70 were seen, more with
more tokens and less with long rows (docs/benchmarks.md); on a card nothing was measured."""


@dataclass(frozen=True)
class MemoryPlan:
    """GiB by kind. The peak is where a micro-batch meets everything that stays."""

    libraries: float
    weights: float
    masters: float
    optimizer: float
    gradients: float
    activations: float
    logits: float

    @property
    def peak(self) -> float:
        return sum(asdict(self).values())

    def as_dict(self) -> dict[str, float]:
        """Rounded, with the peak."""
        return {**{k: round(v, 3) for k, v in asdict(self).items()}, "peak": round(self.peak, 3)}


def training_memory(
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    micro_batch_tokens: int,
    longest: int,
    head_chunk: int,
    coverage: Coverage | None = None,
    device: str = "cpu",
) -> MemoryPlan:
    """Memory of a training on packed streams.

    Args:
        coverage: What is trained; None: everything. Masters, moments and gradients are of trained parameters alone,
            activations are kept by the layers that run backward, and what a method adds is fp32.
        micro_batch_tokens: N of the largest micro-batch.
        longest: Tokens of the longest row: attention keeps n^2 probabilities of each head of rows up to 512.
        device: cpu or cuda; there attention in 16 bits keeps one fp32 number of each head and token instead.
        head_chunk: Rows of logits at once: their fp32 values and softmax, the bf16 gradient.

    Gradients are counted in fp32, as they are where a step has several micro-batches; with one they take half of that.
    """
    width = torch.finfo(dtype).bits // 8
    n = config.n_parameters
    trained, added = (n, 0) if coverage is None else (coverage.trained, coverage.added)
    layers, head = (config.n_layers, True) if coverage is None else (coverage.backward_layers, coverage.head)
    head_gradient = config.vocab_size * config.width * 2 * width if head else 0
    tokens = max(micro_batch_tokens, longest)
    # Kept for the backward pass, in values a token and layer: two norms (in, normed), q, k, v, attention out, gate, up
    # and silu(gate) * up.
    kept = 6 * config.width + 2 * config.head_width * (config.n_heads + config.n_kv_heads) + 3 * config.ffn_width
    probabilities = config.n_heads * (4 / width if device == "cuda" and width == 2 else min(longest, 512))
    return MemoryPlan(
        libraries=LIBRARIES_GIB,
        weights=(n * width + added * 4) / GIB,
        masters=trained * 4 / GIB,
        optimizer=trained * 8 / GIB,
        gradients=trained * 4 / GIB,
        activations=tokens * max(layers, 1) * (kept + probabilities) * width / GIB,
        logits=head_chunk * config.vocab_size * (8 + width) / GIB + head_gradient / GIB,
    )


def training_minutes(flops: float, peak_flops: float, device: str) -> float:
    """Minutes for so many FLOPs at the share of the peak that training reaches."""
    return flops / (peak_flops * REACHED[device]) / 60
