"""AdamW on fp32 masters.

The model computes in its own dtype (bf16 where the machine has the units); masters, optimiser states and the sum of
micro-batch gradients are fp32, because a bf16 weight plus a small update is rounded away (tests/test_optimizer.py shows
it). Each gradient is added to its fp32 sum and freed at the moment autograd has finished it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

UNDECAYED = ("embed", "ia3_l")
"""Parts of names: embeddings, virtual ones too, and IA3's vectors of ones, which PEFT writes as a matrix of one row."""


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
        self._places = {id(p): i for i, p in enumerate(self.params)}
        self._is_empty = [True] * len(self.params)  # nothing added since the last step; what lies there is old
        self._hooks = [p.register_post_accumulate_grad_hook(self._collect) for p in self.params]
        # Norms, biases and embeddings are not decayed: shrinking them has no regularising reading.
        decayed = [
            m.dim() >= 2 and not any(part in n for part in UNDECAYED)
            for n, m in zip(self.names, self.masters, strict=True)
        ]
        groups = [
            {"params": [m for m, d in zip(self.masters, decayed, strict=True) if d is wanted], "weight_decay": decay}
            for wanted, decay in ((True, weight_decay), (False, 0.0))
        ]
        groups = [group for group in groups if group["params"]]
        self.adamw = torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=epsilon, fused=True)

    @property
    def gradients(self) -> list[Tensor]:
        """The fp32 sums since the last step, one a trainable parameter."""
        sums = [master.grad for master in self.masters if master.grad is not None]
        assert len(sums) == len(self.masters)
        for i, is_empty in enumerate(self._is_empty):
            if is_empty:
                sums[i].zero_()
                self._is_empty[i] = False
        return sums

    def trains(self, parameter: Tensor) -> bool:
        """Whether it is one of the trainable parameters."""
        return id(parameter) in self._places

    def add(self, parameter: Tensor, gradient: Tensor) -> None:
        """Add a gradient of any dtype to a parameter's sum; a sparse one touches the rows it has, and no others."""
        place = self._places[id(parameter)]
        total = self.masters[place].grad
        assert total is not None
        if gradient.is_sparse:
            if self._is_empty[place]:
                total.zero_()
            total.index_add_(0, gradient._indices()[0], gradient._values().to(total.dtype))
            self._is_empty[place] = False
            return
        # The first one overwrites the old sum: one pass over memory instead of three.
        if self._is_empty[place]:
            total.copy_(gradient)
            self._is_empty[place] = False
        else:
            total.add_(gradient)

    def forget(self) -> None:
        """Drop what was added since the last step: nothing has happened."""
        self._is_empty = [True] * len(self.params)
        for parameter in self.params:
            parameter.grad = None

    def _collect(self, parameter: Tensor) -> None:
        """Called by autograd when it has finished a parameter's gradient: take it and free it."""
        assert parameter.grad is not None
        self.add(parameter, parameter.grad)
        parameter.grad = None

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
        _ = self.gradients  # parameters that got none in this step have a gradient of zero
        self.adamw.step()
        self._is_empty = [True] * len(self.params)
        with torch.no_grad():
            torch._foreach_copy_(self.params, self.masters)

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
