"""Rotary positions (Su et al. 2021).

Axes: S positions, Q half of ``head_dim``: the pairs that are rotated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_recycle.model.config import MoEConfig


class Rotation(NamedTuple):
    """Cosines and sines of each position's angles; float32. With documents each row has its own, ``[B, 1, S, Q]``."""

    cos_SQ: Tensor
    sin_SQ: Tensor


def rotation_of(config: MoEConfig, positions_S: Tensor) -> Rotation:
    """The rotation of positions, of any shape: pair i of position s by ``s · rope_theta**(-i / Q)``."""
    assert config.head_dim is not None
    exponents = torch.arange(0, config.head_dim, 2, device=positions_S.device, dtype=torch.float32) / config.head_dim
    angles_SQ = positions_S.float().unsqueeze(-1) * (1.0 / config.rope_theta**exponents)
    return Rotation(angles_SQ.cos(), angles_SQ.sin())


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate the pairs ``(i, i + Q)`` of the last axis of ``x``, ``[..., S, 2Q]``, in float32 (float64 stays)."""
    return _Rotate.apply(x, *by)


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
    dtype = torch.promote_types(x.dtype, torch.float32)
    wide, cos_SQ, sin_SQ = x.to(dtype), cos_SQ.to(dtype), sin_SQ.to(dtype)
    out = wide * torch.cat((cos_SQ, cos_SQ), dim=-1)
    (first, second), (out_first, out_second) = wide.chunk(2, dim=-1), out.chunk(2, dim=-1)
    out_first.addcmul_(second, sin_SQ, value=-1)
    out_second.addcmul_(first, sin_SQ)
    return out.to(x.dtype)
