"""AdamW on fp32 masters.

The model computes in its own dtype (bf16 where the machine has the units); masters, optimiser states and the sum of
micro-batch gradients are fp32, because a bf16 weight plus a small update is rounded away (tests/test_optimizer.py shows
it). Each gradient is taken over at the moment autograd has finished it: the only one of a step stays as it came, and
an fp32 sum is made where a second one follows. The update goes through all parameters in pieces that fit the caches, so
that scaling, widening, AdamW and the rounding of the new weights pass over memory once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

UNDECAYED = ("embed", "ia3_l")
"""Parts of names: embeddings, virtual ones too, and IA3's vectors of ones, which PEFT writes as a matrix of one row."""
PIECE_ELEMENTS = 2**22
"""Most elements that are updated at once: 16 MB of fp32 gradients."""
CARD_PIECE_ELEMENTS = 2**26
"""The same on a card, whose caches hold none of it and which waits for every piece to be begun: 256 MB."""


@dataclass(frozen=True)
class _Piece:
    """Elements low to high of a flattened parameter."""

    place: int
    low: int
    high: int

    def of(self, tensor: Tensor) -> Tensor:
        """These elements, as a view where the tensor is contiguous."""
        return tensor.reshape(-1)[self.low : self.high]


class MasterAdamW:
    """AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101) on fp32 masters of a model in any dtype.

    While it lives, gradients of the model's trainable parameters go to it: run backward passes, then `step`.
    """

    def __init__(self, model: nn.Module, *, betas: tuple[float, float], epsilon: float, weight_decay: float) -> None:
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.params: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
        assert all(p.is_contiguous() for p in self.params), "the update writes through flattened views"
        self.masters = [p.detach().float().clone() for p in self.params]
        self.first_moments = [torch.zeros_like(master) for master in self.masters]
        self.second_moments = [torch.zeros_like(master) for master in self.masters]
        self.updates = 0
        self.betas, self.epsilon = betas, epsilon
        # Norms, biases and embeddings are not decayed: shrinking them has no regularising reading.
        self.decays = [
            weight_decay if p.dim() >= 2 and not any(part in n for part in UNDECAYED) else 0.0
            for n, p in zip(self.names, self.params, strict=True)
        ]
        self._places = {id(p): i for i, p in enumerate(self.params)}
        self._gathered: list[Tensor | None] = [None] * len(self.params)  # since the last step
        self._sums: list[Tensor | None] = [None] * len(self.params)  # fp32, made once a parameter needs one
        self._scale = 1.0  # of what is gathered: clipping waits for the update
        self._hooks = [p.register_post_accumulate_grad_hook(self._collect) for p in self.params]

    @property
    def gradients(self) -> list[Tensor]:
        """The gradients since the last step as fp32 sums, one a trainable parameter; those that got none are 0.

        What is written to them counts. For looking and testing: the update itself needs no fp32 sum of all.
        """
        for place, gathered in enumerate(self._gathered):
            total = self._widen(place)
            if gathered is None:
                total.zero_()
            else:
                total.mul_(self._scale)
        self._scale = 1.0
        return [total for total in self._gathered if total is not None]

    def trains(self, parameter: Tensor) -> bool:
        """Whether it is one of the trainable parameters."""
        return id(parameter) in self._places

    def add(self, parameter: Tensor, gradient: Tensor) -> None:
        """Add a gradient of any dtype to a parameter's; a sparse one touches the rows it has, and no others.

        The tensor belongs to the optimizer from here on.
        """
        assert self._scale == 1.0, "gradients come before clipping"
        place = self._places[id(parameter)]
        if gradient.is_sparse:
            was_empty = self._gathered[place] is None
            total = self._widen(place)
            if was_empty:
                total.zero_()
            total.index_add_(0, gradient._indices()[0], gradient._values().to(total.dtype))
        elif self._gathered[place] is None:
            self._gathered[place] = gradient
        else:
            self._widen(place).add_(gradient)

    def _widen(self, place: int) -> Tensor:
        """The fp32 sum of a parameter, holding what was gathered so far; where nothing was, its content is old."""
        total, gathered = self._sums[place], self._gathered[place]
        if total is None:
            total = self._sums[place] = torch.empty_like(self.masters[place])
        if gathered is not None and gathered is not total:
            total.copy_(gathered)
        self._gathered[place] = total
        return total

    def forget(self) -> None:
        """Drop what was added since the last step: nothing has happened."""
        self._gathered = [None] * len(self.params)
        self._scale = 1.0
        for parameter in self.params:
            parameter.grad = None

    def _collect(self, parameter: Tensor) -> None:
        """Called by autograd when it has finished a parameter's gradient: take it over."""
        assert parameter.grad is not None
        gradient, parameter.grad = parameter.grad, None
        self.add(parameter, gradient)

    def clip(self, max_norm: float) -> float:
        """Scale all gradients down to a global norm of `max_norm` (0: leave them). Returns the norm before."""
        gathered = [gradient for gradient in self._gathered if gradient is not None]
        if not gathered:
            return 0.0
        norm = self._scale * float(torch.linalg.vector_norm(torch.stack(_norms(gathered))))
        if 0 < max_norm < norm:
            self._scale *= max_norm / (norm + 1e-6)
        return norm

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update of the masters; the model's weights are their rounded copies. Gradients start again at zero."""
        for pieces in self._pieces():
            self._update(pieces, learning_rate)
        self.updates += 1
        self.forget()

    def _pieces(self) -> Iterator[list[_Piece]]:
        """All parameters in lists of at most so many elements as the device likes, and of one weight decay."""
        pieces: list[_Piece] = []
        size, most = 0, CARD_PIECE_ELEMENTS if any(master.is_cuda for master in self.masters) else PIECE_ELEMENTS
        for place, master in enumerate(self.masters):
            for low in range(0, master.numel(), most):
                piece = _Piece(place, low, min(low + most, master.numel()))
                alike = not pieces or self.decays[pieces[-1].place] == self.decays[place]
                if pieces and (size + piece.high - piece.low > most or not alike):
                    yield pieces
                    pieces, size = [], 0
                pieces.append(piece)
                size += piece.high - piece.low
        if pieces:
            yield pieces

    def _update(self, pieces: list[_Piece], learning_rate: float) -> None:
        masters = [piece.of(self.masters[piece.place]) for piece in pieces]
        gradients = [self._gradient(piece) for piece in pieces]
        # Filled on the device, one for each piece, because the call counts each of them up.
        steps = torch.full((len(masters),), float(self.updates), dtype=torch.float32, device=masters[0].device).unbind()
        adamw(
            masters,
            gradients,
            [piece.of(self.first_moments[piece.place]) for piece in pieces],
            [piece.of(self.second_moments[piece.place]) for piece in pieces],
            [],
            list(steps),
            fused=True,
            amsgrad=False,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=learning_rate,
            weight_decay=self.decays[pieces[0].place],
            eps=self.epsilon,
            maximize=False,
        )
        torch._foreach_copy_([piece.of(self.params[piece.place]) for piece in pieces], masters)

    def _gradient(self, piece: _Piece) -> Tensor:
        """In fp32 and scaled; a parameter that got none in this step has a gradient of zero."""
        gathered = self._gathered[piece.place]
        if gathered is None:
            return torch.zeros_like(piece.of(self.masters[piece.place]))
        wide = piece.of(gathered).float()
        return wide if self._scale == 1.0 else wide.mul_(self._scale)

    def close(self) -> None:
        """Give the parameters' gradients back to autograd."""
        for hook in self._hooks:
            hook.remove()

    def state(self) -> dict[str, Tensor]:
        """Masters and moments by name, for a checkpoint."""
        out: dict[str, Tensor] = {}
        for place, name in enumerate(self.names):
            out[f"master/{name}"] = self.masters[place]
            out[f"first/{name}"] = self.first_moments[place]
            out[f"second/{name}"] = self.second_moments[place]
        return out

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Take masters and moments from `state` as after `step` updates; the model follows.

        Raises:
            KeyError: The state belongs to other parameters (the checkpoint's own check comes first).
        """
        for place, name in enumerate(self.names):
            self.masters[place].copy_(state[f"master/{name}"])
            self.first_moments[place].copy_(state[f"first/{name}"])
            self.second_moments[place].copy_(state[f"second/{name}"])
        self.updates = step
        with torch.no_grad():
            torch._foreach_copy_(self.params, self.masters)


def _norms(tensors: list[Tensor]) -> list[Tensor]:
    """Their 2-norms in fp32, in their order. Those of one dtype go together: a card takes a mixed list one by one."""
    found: list[Tensor] = list(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [place for place, tensor in enumerate(tensors) if tensor.dtype == dtype]
        alike = torch._foreach_norm([tensors[place] for place in places], 2, dtype=torch.float32)
        for place, norm in zip(places, alike, strict=True):
            found[place] = norm
    return found
