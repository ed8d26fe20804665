"""Cross-entropy of a linear layer's outputs that never holds all logits at once.

Axes: T tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

LEFT_OUT = -100
"""A label that is not predicted, as in torch."""
CHUNK = 1 << 27
"""Logits that exist at a time: half a gigabyte in float32, while a product of so many keeps a GPU busy."""


def chunked_cross_entropy(hidden_TD: Tensor, weight_VD: Tensor, labels_T: Tensor) -> Tensor:
    """Mean cross-entropy of ``softmax(hidden @ weight.T)`` in nats per label; labels of -100 are left out.

    Products are in the type of ``hidden``, the softmax in float32 (float64 stays).
    """
    return _CrossEntropy.apply(hidden_TD, weight_VD, labels_T, torch.is_grad_enabled())


class _CrossEntropy(torch.autograd.Function):
    """Chunk by chunk: logits, loss, and at once the gradients, so that no logits are kept or computed again."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, weight_VD: Tensor, labels_T: Tensor, trained: bool) -> Tensor:
        dtype = torch.promote_types(hidden_TD.dtype, torch.float32)
        weight = weight_VD.to(hidden_TD.dtype)
        needs_hidden, needs_weight = (trained and needs for needs in ctx.needs_input_grad[:2])
        grad_hidden_TD = torch.empty_like(hidden_TD) if needs_hidden else None
        grad_weight_VD = weight_VD.new_zeros(weight_VD.shape, dtype=dtype) if needs_weight else None
        loss = hidden_TD.new_zeros((), dtype=dtype)
        kept_T = labels_T != LEFT_OUT
        count = kept_T.sum().clamp(min=1).to(dtype)
        rows = max(1, min(CHUNK // len(weight), len(hidden_TD)))
        shrink = rows**-0.5
        for start in range(0, len(hidden_TD), rows):
            chunk = slice(start, start + rows)
            hidden, kept = hidden_TD[chunk], kept_T[chunk].unsqueeze(1)
            labels = labels_T[chunk].unsqueeze(1).clamp(min=0)
            log_probs = F.log_softmax(hidden @ weight.T, dim=-1, dtype=dtype)
            loss -= log_probs.gather(1, labels).where(kept, 0.0).sum()
            if needs_hidden or needs_weight:
                grad = log_probs.exp_().scatter_add_(1, labels, log_probs.new_full(labels.shape, -1.0))
                grad = grad.to(hidden.dtype)  # of the sum: shares of the mean would vanish in float16
                # A row that is left out counts nothing, and takes no pass of its own over the logits.
                counts = kept.to(hidden.dtype)
            if grad_hidden_TD is not None:
                torch.mm(grad, weight, out=grad_hidden_TD[chunk]).mul_(counts)
            if grad_weight_VD is not None:  # shrunk, for sums over so many rows would be infinite there
                grad_weight_VD += grad.T @ (hidden * (counts * shrink))
        if grad_weight_VD is not None:
            grad_weight_VD = grad_weight_VD.div_(shrink * count).to(weight_VD.dtype)
        ctx.save_for_backward(grad_hidden_TD, grad_weight_VD, count)
        return loss / count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_TD, grad_weight_VD, count = ctx.saved_tensors
        if grad_hidden_TD is not None:
            grad_hidden_TD = _scaled(grad_hidden_TD, grad / count)
        if grad_weight_VD is not None:
            grad_weight_VD = _scaled(grad_weight_VD, grad)
        return grad_hidden_TD, grad_weight_VD, None, None


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """In the factor's type: 16 bits do not hold the factor of a loss scaler, or a third of a window of three."""
    return (gradient.to(factor.dtype) * factor).to(gradient.dtype)
