"""LoRA on a linear module: fp32 factors, products in the dtype of the model, and a gradient written by hand.

Hu et al. 2021 (arXiv:2106.09685), section 4.1: y = W x + (alpha / r) B A x, with W frozen. Nothing is formed that
nobody reads: no gradient of W, and none of x where x itself comes from frozen layers alone, so the backward pass ends
at the first adapter. DoRA, Liu et al. 2024 (arXiv:2402.09353), equation 5: W + (alpha / r) B A is scaled row by row to
a trained magnitude m; the norm it is divided by counts as a constant (section 4.3). Dropout leaves out elements of what
A reads and of nothing else, in both.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thinkling.model.adapted import AdaptedLinear, drawn_uniform
from thinkling.model.dropout import Drop, Dropout


def lora_plain(x: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """Hu et al. 2021, equation 3. x (N, in), weight (out, in), down (r, in), up (out, r) -> (N, out)."""
    return F.linear(x, weight, bias) + scale * F.linear(F.linear(x, down.to(x.dtype)), up.to(x.dtype))


class _LoRA(torch.autograd.Function):
    """`lora_plain` without a pass over (N, out) or (N, in) of its own: both corrections are added by the products."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        scale: float,
        drop: Drop | None,
    ) -> Tensor:
        down, up = down.to(x.dtype), up.to(x.dtype)
        low = (x if drop is None else x.masked_fill(drop.mask(), 0)) @ down.T  # (N, r)
        ctx.save_for_backward(x, low, weight, down, up)
        ctx.scale, ctx.drop = scale, drop
        return F.linear(x, weight, bias).addmm_(low, up.T, alpha=scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, None, None]:
        x, low, weight, down, up = ctx.saved_tensors
        (d_out,) = gradients  # (N, out)
        d_up = (d_out.T @ low).float().mul_(ctx.scale)  # (out, r)
        d_low = (d_out @ up).mul_(ctx.scale)  # (N, r)
        d_x = d_out @ weight if ctx.needs_input_grad[0] else None
        d_down = _through_down(x, d_low, down, ctx.drop, d_x)
        return d_x, None, None, d_down, d_up, None, None


def _through_down(x: Tensor, d_low: Tensor, down: Tensor, drop: Drop | None, d_x: Tensor | None) -> Tensor:
    """The gradient (r, in) of `down`; that of x (N, in) through it is added to `d_x`, where that is wanted.

    The mask is looked up again: keeping it from the forward pass would cost half as much memory as x.
    """
    if drop is None:
        if d_x is not None:
            d_x.addmm_(d_low, down)
        return (d_low.T @ x).float()
    mask = drop.mask()
    if d_x is not None:
        d_x.add_((d_low @ down).masked_fill_(mask, 0))
    return (d_low.T @ x.masked_fill(mask, 0)).float()


class LoRALinear(AdaptedLinear):
    """A frozen linear and its low-rank correction: x (N, in) -> (N, out).

    It takes over the weight and bias of `base`, which keep their names; `lora_A` (r, in) and `lora_B` (out, r) are fp32
    whatever the dtype of the model. B starts at zero, so that the module starts as the base.
    """

    def __init__(self, base: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        with torch.device("meta"):  # shapes without memory: the tensors are those of `base`
            super().__init__(base.in_features, base.out_features, bias=base.bias is not None)
        self.weight, self.bias = base.weight, base.bias
        self.scale = scale
        self.dropout: Dropout | None = None
        # As PEFT starts A: uniform with the variance 1 / (3 in); its draw does not depend on other matrices.
        bound = 1 / math.sqrt(base.in_features)
        self.lora_A = nn.Parameter(drawn_uniform((rank, base.in_features), bound, generator, base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def drop_inputs(self, dropout: Dropout, name: str) -> None:
        """Leave out elements of what the correction reads, in training steps. `name` is the module's, for the draws."""
        self.dropout, self.drawn_as = dropout, name

    def _drawn(self) -> tuple[float, Drop | None]:
        """(what the correction is multiplied with, what is left out): what stays stands for what is left out."""
        drop = None if self.dropout is None else self.dropout.of(self.drawn_as, self.in_features)
        return self.scale if drop is None else self.scale / (1 - drop.share), drop

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _LoRA.apply(x, self.weight, self.bias, self.lora_A, self.lora_B, *self._drawn())
        return out

    @torch.no_grad()
    def merged(self) -> tuple[Tensor, Tensor | None]:
        """W + scale B A, formed in fp32 and rounded once."""
        moved = torch.addmm(self.weight.float(), self.lora_B, self.lora_A, alpha=self.scale)  # (out, in)
        return moved.to(self.weight.dtype), None if self.bias is None else self.bias.detach().clone()


class _DoRA(torch.autograd.Function):
    """y = gain * (W x + scale B A x) + bias, gain (out,) in fp32."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        down: Tensor,
        up: Tensor,
        gain: Tensor,
        scale: float,
        drop: Drop | None,
    ) -> Tensor:
        down, up = down.to(x.dtype), up.to(x.dtype)
        low = (x if drop is None else x.masked_fill(drop.mask(), 0)) @ down.T  # (N, r)
        straight = F.linear(x, weight).addmm_(low, up.T, alpha=scale)  # (N, out)
        ctx.save_for_backward(x, low, straight, weight, down, up, gain)
        ctx.scale, ctx.drop = scale, drop
        # A gain rounded to bf16 would stand still under small updates: it is multiplied in fp32 and rounded once.
        out = torch.mul(straight, gain, out=torch.empty_like(straight))
        return out if bias is None else out.add_(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, Tensor, Tensor, Tensor, None, None]:
        x, low, straight, weight, down, up, gain = ctx.saved_tensors
        (d_out,) = gradients  # (N, out)
        d_gain = (d_out * straight).sum(0, dtype=torch.float32)  # (out,)
        d_straight = torch.mul(d_out, gain, out=torch.empty_like(d_out))  # (N, out)
        d_up = (d_straight.T @ low).float().mul_(ctx.scale)  # (out, r)
        d_low = (d_straight @ up).mul_(ctx.scale)  # (N, r)
        d_x = d_straight @ weight if ctx.needs_input_grad[0] else None
        d_down = _through_down(x, d_low, down, ctx.drop, d_x)
        return d_x, None, None, d_down, d_up, d_gain, None, None


class DoRALinear(LoRALinear):
    """LoRALinear whose rows are scaled to trained magnitudes (out,), which start as the norms of W's rows."""

    def __init__(self, base: nn.Linear, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__(base, rank, scale, generator)
        with torch.no_grad():
            self.lora_magnitude_vector = nn.Parameter(self._norms())

    def _norms(self) -> Tensor:
        """(out,) norms of the rows of W + scale B A, without forming it: |w|^2 + 2 s w.(A^T b) + s^2 |A^T b|^2."""
        weight, down, up = self.weight.detach(), self.lora_A.detach(), self.lora_B.detach()
        squares = torch.linalg.vector_norm(weight, dim=1, dtype=torch.float32).square_()  # (out,)
        across = (weight @ down.to(weight.dtype).T).float().mul_(up).sum(1)  # (out,)
        own = (up @ (down @ down.T)).mul_(up).sum(1)  # (out,)
        return squares.add_(across, alpha=2 * self.scale).add_(own, alpha=self.scale**2).clamp_(min=0).sqrt_()

    def _gain(self) -> Tensor:
        """(out,) what each row is multiplied with; differentiable in the magnitudes alone."""
        return self.lora_magnitude_vector / self._norms().clamp_(min=torch.finfo(torch.float32).tiny)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _DoRA.apply(x, self.weight, self.bias, self.lora_A, self.lora_B, self._gain(), *self._drawn())
        return out

    @torch.no_grad()
    def merged(self) -> tuple[Tensor, Tensor | None]:
        """gain (W + scale B A), formed in fp32 and rounded once."""
        moved = torch.addmm(self.weight.float(), self.lora_B, self.lora_A, alpha=self.scale)  # (out, in)
        moved.mul_(self._gain().unsqueeze(1))
        return moved.to(self.weight.dtype), None if self.bias is None else self.bias.detach().clone()
