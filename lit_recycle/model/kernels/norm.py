"""RMSNorm in few passes over memory, for devices on which torch composes it of other functions.

Axes: N the size that is normalised, T all others together.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def rms_norm(x: Tensor, weight_N: Tensor, eps: float) -> Tensor:
    """``weight · x / √(mean(x²) + ε)`` over the last axis, computed in the weight's type or float32, whatever is wider;
    the type of ``x`` comes out."""
    return _RMSNorm.apply(x, weight_N, eps)


class _RMSNorm(torch.autograd.Function):
    """``y = w · x · r`` with ``r = 1 / √(mean(x²) + ε)``, in few passes over memory.

    With ``g`` the gradient of y and ``s = Σ g · w · x`` over the last axis, the gradient of x is
    ``r · g · w - x · s · r³ / N``, that of w the sum of ``g · x · r`` over all others.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_N: Tensor, eps: float) -> Tensor:
        dtype = torch.promote_types(weight_N.dtype, torch.float32)
        wide, weight = x.to(dtype), weight_N.to(dtype)
        mean_square = torch.linalg.vector_norm(wide, dim=-1, keepdim=True).square_().div_(x.shape[-1])
        scale = mean_square.add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight_N, scale)
        return (wide * scale).mul_(weight).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight_N, scale = ctx.saved_tensors
        wide, weight = x.to(scale.dtype), weight_N.to(scale.dtype)
        products_TN, scale_T1 = (grad * wide).reshape(-1, x.shape[-1]), scale.reshape(-1, 1)
        share = scale.pow(3).mul_(products_TN.mv(weight).view_as(scale)).div_(-x.shape[-1])
        grad_weight_N = products_TN.mul_(scale_T1).sum(0)  # by parts, where a product with scale would just add up
        grad_x = (grad * weight).mul_(scale).addcmul_(wide, share)
        return grad_x.to(x.dtype), grad_weight_N.to(weight_N.dtype), None
