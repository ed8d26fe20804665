"""Rotation of pairs, of which nothing is kept for the gradient.

Axes: S positions, Q pairs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rotate_pairs(x: Tensor, cos_SQ: Tensor, sin_SQ: Tensor) -> Tensor:
    """Rotate the pairs ``(i, i + Q)`` of the first ``2Q`` entries of the last axis, in float32 (float64 stays)."""
    return _Rotate.apply(x, cos_SQ, sin_SQ)


class _Rotate(torch.autograd.Function):
    """A gradient is rotated back, so nothing of the input is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos_SQ: Tensor, sin_SQ: Tensor) -> Tensor:
        ctx.save_for_backward(cos_SQ, sin_SQ)
        return _rotated(x, cos_SQ, sin_SQ)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        cos_SQ, sin_SQ = ctx.saved_tensors
        return _rotated(grad, cos_SQ, -sin_SQ), None, None


def _rotated(x: Tensor, cos_SQ: Tensor, sin_SQ: Tensor) -> Tensor:
    rotated = 2 * cos_SQ.shape[-1]
    if rotated < x.shape[-1]:
        return torch.cat((_rotated(x[..., :rotated], cos_SQ, sin_SQ), x[..., rotated:]), dim=-1)
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide, cos_SQ, sin_SQ = x.to(dtype), cos_SQ.to(dtype), sin_SQ.to(dtype)
    out = wide * torch.cat((cos_SQ, cos_SQ), dim=-1)
    (first, second), (out_first, out_second) = wide.chunk(2, dim=-1), out.chunk(2, dim=-1)
    out_first.addcmul_(second, sin_SQ, value=-1)
    out_second.addcmul_(first, sin_SQ)
    return out.to(x.dtype)
