"""The head, run only where a prediction counts, in chunks, never keeping full logits.

A loss says what it `needs` of the head; for a loss whose terms are sums over single tokens the gradient is formed chunk
by chunk during the forward pass: the (M, V) logits of a step never exist at once and never wait for a backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

BLOCK_ELEMENTS = 2**19
"""fp32 logits worked on at once: 2 MB, in the caches of two cores; beyond, each pass goes through memory."""
ROWS_AT_ONCE = 64
"""oneDNN writes a kernel for each new shape of a product: 20 to 50 ms for each of the head's, and the last chunk of a
step has ever another number of rows."""


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
        logits = hidden[low : low + chunk] @ weight.T  # (c, V)
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
        chunk: Rows at a time; chunk * V logits in the dtype of `hidden` exist at once, and a block of them in fp32.
        needs: Fields of HeadOutput that the loss reads.
        add_weight_gradient: Receives each chunk's (V, D) gradient of `weight`; None where the head is frozen.

    Returns:
        The predictions (detached) and (M, D), the gradient of `hidden`.
    """
    d_hidden = torch.empty_like(hidden)
    parts = []
    for low in range(0, len(targets), chunk):
        high = min(low + chunk, len(targets))
        rows, wanted = _whole_tiles(hidden[low:high]), targets[low:high]
        whole = rows @ weight.T  # (c, V), or more rows, which count nothing
        logits = whole[: high - low]  # (c, V)
        measured, logsumexp = _measure(logits, wanted, needs)
        parts.append(measured)
        _form_gradient(logits, logsumexp, measured, wanted, *_leaf_gradients(measured, loss, low, high))
        whole[high - low :] = 0
        d_hidden[low:high] = (whole @ weight)[: high - low]
        if add_weight_gradient is not None:
            add_weight_gradient(whole.T @ rows)
    return _concatenate(parts, hidden.device), d_hidden


def _whole_tiles(rows: Tensor) -> Tensor:
    """(c, D) -> with rows of zeros up to a multiple of ROWS_AT_ONCE, on the CPU: few shapes, few kernels to write."""
    lacking = -len(rows) % ROWS_AT_ONCE
    return rows if rows.is_cuda or lacking == 0 else F.pad(rows, (0, 0, 0, lacking))


def _blocks(logits: Tensor) -> Iterator[slice]:
    """Rows of (c, V) logits whose fp32 copies stay in the caches of two cores; on a GPU all at once."""
    rows = len(logits) if logits.is_cuda else max(1, BLOCK_ELEMENTS // logits.shape[1])
    return (slice(low, low + rows) for low in range(0, len(logits), max(rows, 1)))


def _measure(logits: Tensor, targets: Tensor, needs: tuple[str, ...]) -> tuple[HeadOutput, Tensor]:
    """What a loss reads of (c, V) logits, and their logsumexp (c,); fp32 inside."""
    logsumexp = torch.empty(len(logits), device=logits.device)
    entropy = torch.empty_like(logsumexp) if "entropy" in needs else None
    for block in _blocks(logits):
        wide = logits[block].float()
        logsumexp[block] = torch.logsumexp(wide, dim=-1)
        if entropy is not None:
            entropy[block] = logsumexp[block] - (torch.softmax(wide, dim=-1) * wide).sum(-1)
    logprobs = logits.gather(1, targets.unsqueeze(1)).squeeze(1).float() - logsumexp
    return HeadOutput(logprobs, entropy), logsumexp


def _leaf_gradients(measured: HeadOutput, loss: ChunkLoss, low: int, high: int) -> tuple[Tensor, Tensor | None]:
    """The loss's gradient of the log-probabilities and, where it reads it, of the entropy: (c,) each."""
    with torch.enable_grad():
        leaves = {"logprobs": measured.logprobs.detach().requires_grad_()}
        if measured.entropy is not None:
            leaves["entropy"] = measured.entropy.detach().requires_grad_()
        total = loss(HeadOutput(**leaves), low, high)
    gradients = dict(zip(leaves, torch.autograd.grad(total, list(leaves.values()), allow_unused=True), strict=True))
    d_logprobs = gradients["logprobs"]
    return torch.zeros_like(measured.logprobs) if d_logprobs is None else d_logprobs, gradients.get("entropy")


def _form_gradient(
    logits: Tensor,
    logsumexp: Tensor,
    measured: HeadOutput,
    targets: Tensor,
    d_logprobs: Tensor,
    d_entropy: Tensor | None,
) -> None:
    """Put the gradient of (c, V) logits in their place, in their dtype; formed in fp32, rounded once."""
    for block in _blocks(logits):
        log_p = logits[block].float().sub_(logsumexp[block].unsqueeze(1))  # (b, V)
        outer = d_logprobs[block].unsqueeze(1)  # (b, 1)
        if d_entropy is not None and measured.entropy is not None:
            through = d_entropy[block].unsqueeze(1) * (log_p + measured.entropy[block].unsqueeze(1))
            d_wide = log_p.exp_().mul_(-(outer + through))
        else:
            d_wide = log_p.exp_().mul_(-outer)
        logits[block] = d_wide.scatter_add_(1, targets[block].unsqueeze(1), outer)


def _concatenate(parts: list[HeadOutput], device: torch.device) -> HeadOutput:
    if not parts:
        return HeadOutput(torch.zeros(0, device=device))
    entropies = [part.entropy for part in parts if part.entropy is not None]
    return HeadOutput(torch.cat([part.logprobs for part in parts]), torch.cat(entropies) if entropies else None)
