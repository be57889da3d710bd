"""AdamW on fp32 masters, and schedules as pure functions of the step.

The model computes in its own dtype (bf16 where the machine has the units); masters, optimiser states and the sum of
micro-batch gradients are fp32, because a bf16 weight plus a small update is rounded away (tests/test_optimizer.py shows
it). Each gradient is added to its fp32 sum and freed at the moment autograd has finished it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

Schedule = Literal["constant", "linear", "cosine"]


def schedule_factor(kind: Schedule, step: int, *, warmup_steps: int, total_steps: int, minimum: float) -> float:
    """What the learning rate of update number `step` (from 1) is multiplied with.

    Linear warm-up to 1 over `warmup_steps`, then constant, or a linear or half-cosine (Loshchilov & Hutter 2017,
    arXiv:1608.03983, equation 5) fall to `minimum` at `total_steps`.
    """
    if step <= warmup_steps:
        return step / max(warmup_steps, 1)
    if kind == "constant":
        return 1.0
    share = min((step - warmup_steps) / max(total_steps - warmup_steps, 1), 1.0)
    fall = 1 - share if kind == "linear" else (1 + math.cos(math.pi * share)) / 2
    return minimum + (1 - minimum) * fall


class MasterAdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) on fp32 masters of a model in any dtype.

    While it lives, gradients of the model's trainable parameters go to its fp32 sums: run backward passes, then `step`.
    """

    def __init__(self, model: nn.Module, *, betas: tuple[float, float], epsilon: float, weight_decay: float) -> None:
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.params: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.masters = [p.detach().float().clone() for p in self.params]
        for master in self.masters:
            master.grad = torch.zeros_like(master)
        self._hooks = [
            p.register_post_accumulate_grad_hook(_collector(master))
            for p, master in zip(self.params, self.masters, strict=True)
        ]
        # Norms, biases and embeddings are not decayed: shrinking them has no regularising reading.
        decayed = [m.dim() >= 2 and "embed_tokens" not in n for n, m in zip(self.names, self.masters, strict=True)]
        groups = [
            {"params": [m for m, d in zip(self.masters, decayed, strict=True) if d is wanted], "weight_decay": decay}
            for wanted, decay in ((True, weight_decay), (False, 0.0))
        ]
        groups = [group for group in groups if group["params"]]
        self.adamw = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=epsilon, fused=True)

    @property
    def gradients(self) -> list[Tensor]:
        """The fp32 sums, one a trainable parameter."""
        sums = [master.grad for master in self.masters]
        assert all(g is not None for g in sums)
        return [g for g in sums if g is not None]

    def gradient_of(self, parameter: Tensor) -> Tensor | None:
        """The fp32 sum of one parameter; None where it is frozen."""
        for p, master in zip(self.params, self.masters, strict=True):
            if p is parameter:
                return master.grad
        return None

    def clip(self, max_norm: float) -> float:
        """Scale all gradients down to a global norm of `max_norm` (0: leave them). Returns the norm before."""
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self.gradients)))
        if 0 < max_norm < float(norm):
            torch._foreach_mul_(self.gradients, max_norm / (float(norm) + 1e-6))
        return float(norm)

    def step(self, learning_rate: float) -> None:
        """One update of the masters; the model's weights are their rounded copies. Gradients start again at zero."""
        for group in self.adamw.param_groups:
            group["lr"] = learning_rate
        self.adamw.step()
        with torch.no_grad():
            torch._foreach_copy_(self.params, self.masters)
            torch._foreach_zero_(self.gradients)

    def close(self) -> None:
        """Give the parameters' gradients back to autograd."""
        for hook in self._hooks:
            hook.remove()

    def state(self) -> dict[str, Tensor]:
        """Masters and moments by name, for a checkpoint."""
        out: dict[str, Tensor] = {}
        for name, master in zip(self.names, self.masters, strict=True):
            moments = self.adamw.state.get(master, {})
            out[f"master/{name}"] = master
            out[f"first/{name}"] = moments.get("exp_avg", torch.zeros_like(master))
            out[f"second/{name}"] = moments.get("exp_avg_sq", torch.zeros_like(master))
        return out

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Take masters and moments from `state` as after `step` updates; the model follows.

        Raises:
            KeyError: The state belongs to other parameters (the checkpoint's own check comes first).
        """
        for name, master in zip(self.names, self.masters, strict=True):
            master.data.copy_(state[f"master/{name}"])
            if step:
                self.adamw.state[master] = {
                    "step": torch.tensor(float(step), device=master.device if master.is_cuda else "cpu"),
                    "exp_avg": state[f"first/{name}"].clone().to(master.device),
                    "exp_avg_sq": state[f"second/{name}"].clone().to(master.device),
                }
        with torch.no_grad():
            torch._foreach_copy_(self.params, self.masters)


def _collector(master: Tensor) -> Callable[[Any], None]:
    def collect(parameter: Tensor) -> None:
        assert parameter.grad is not None
        assert master.grad is not None
        master.grad.add_(parameter.grad)
        parameter.grad = None

    return collect
