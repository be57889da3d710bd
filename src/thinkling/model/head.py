"""The head, run only where a prediction counts, in chunks, never keeping full logits.

A loss says what it `needs` of the head; for a loss whose terms are sums over single tokens the gradient is formed chunk
by chunk during the forward pass: the (M, V) logits of a step never exist at once and never wait for a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HeadOutput:
    """What the head knows about M predictions; a field is None where no loss needed it."""

    logprobs: Tensor
    """(M,) nats of the target tokens, fp32."""
    entropy: Tensor | None = None
    """(M,) nats of the whole distribution, fp32."""


ChunkLoss = Callable[[HeadOutput, int, int], Tensor]
"""(head output of rows low to high, low, high) -> a scalar to minimise, already divided by the global counts."""


@torch.no_grad()
def predictions(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, chunk: int, needs: tuple[str, ...] = ("logprobs",)
) -> HeadOutput:
    """Log-probabilities of the targets without gradient. hidden (M, D), weight (V, D), targets (M,)."""
    parts = []
    for low in range(0, len(targets), chunk):
        logits = (hidden[low : low + chunk] @ weight.T).float()  # (c, V)
        parts.append(_measure(logits, targets[low : low + chunk], needs)[0])
    return _concatenate(parts, hidden.device)


def gradient_in_forward(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    loss: ChunkLoss,
    *,
    chunk: int,
    needs: tuple[str, ...],
    add_weight_gradient: Callable[[Tensor], object] | None,
) -> tuple[HeadOutput, Tensor]:
    """Predictions, and the gradient of the summed chunk losses with respect to `hidden`.

    With logits z, p = softmax(z), target t and entropy H:  d logp_t / dz = onehot(t) - p,  dH / dz = -p (log p + H).

    Args:
        hidden: (M, D), without graph.
        weight: (V, D) of the head.
        targets: (M,) ids.
        loss: Called once a chunk.
        chunk: Rows at a time; chunk * V * 4 bytes of logits exist at once.
        needs: Fields of HeadOutput that the loss reads.
        add_weight_gradient: Receives each chunk's (V, D) gradient of `weight`; None where the head is frozen.

    Returns:
        The predictions (detached) and (M, D), the gradient of `hidden`.
    """
    d_hidden = torch.empty_like(hidden)
    parts = []
    for low in range(0, len(targets), chunk):
        high = min(low + chunk, len(targets))
        rows, wanted = hidden[low:high], targets[low:high]
        logits = (rows @ weight.T).float()  # (c, V)
        measured, logsumexp = _measure(logits, wanted, needs)
        parts.append(measured)
        d_logits = _chunk_gradient(logits, logsumexp, measured, wanted, loss, low, high).to(hidden.dtype)  # (c, V)
        torch.mm(d_logits, weight, out=d_hidden[low:high])
        if add_weight_gradient is not None:
            add_weight_gradient(d_logits.T @ rows)
    return _concatenate(parts, hidden.device), d_hidden


def _measure(logits: Tensor, targets: Tensor, needs: tuple[str, ...]) -> tuple[HeadOutput, Tensor]:
    logsumexp = torch.logsumexp(logits, dim=-1)  # (c,)
    logprobs = logits.gather(1, targets.unsqueeze(1)).squeeze(1) - logsumexp
    entropy = None
    if "entropy" in needs:
        entropy = logsumexp - (torch.softmax(logits, dim=-1) * logits).sum(-1)  # (c,)
    return HeadOutput(logprobs, entropy), logsumexp


def _chunk_gradient(
    logits: Tensor, logsumexp: Tensor, measured: HeadOutput, targets: Tensor, loss: ChunkLoss, low: int, high: int
) -> Tensor:
    """(c, V) gradient of the chunk's loss; `logits` is used up."""
    with torch.enable_grad():
        leaves = {"logprobs": measured.logprobs.detach().requires_grad_()}
        if measured.entropy is not None:
            leaves["entropy"] = measured.entropy.detach().requires_grad_()
        total = loss(HeadOutput(**leaves), low, high)
    gradients = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values()), allow_unused=True), strict=True))
    log_p = logits.sub_(logsumexp.unsqueeze(1))  # (c, V)
    d_entropy, entropy = gradients.get("entropy"), measured.entropy
    d_logprobs = gradients["logprobs"]
    d_logprobs = torch.zeros_like(logsumexp) if d_logprobs is None else d_logprobs  # (c,)
    if d_entropy is not None and entropy is not None:
        p = log_p.exp()
        d_logits = -p * (d_logprobs.unsqueeze(1) + d_entropy.unsqueeze(1) * (log_p + entropy.unsqueeze(1)))
    else:
        d_logits = log_p.exp_().mul_(-d_logprobs.unsqueeze(1))
    return d_logits.scatter_add_(1, targets.unsqueeze(1), d_logprobs.unsqueeze(1))


def _concatenate(parts: list[HeadOutput], device: torch.device) -> HeadOutput:
    if not parts:
        return HeadOutput(torch.zeros(0, device=device))
    entropies = [part.entropy for part in parts if part.entropy is not None]
    return HeadOutput(torch.cat([part.logprobs for part in parts]), torch.cat(entropies) if entropies else None)
