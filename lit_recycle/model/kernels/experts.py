"""SwiGLU experts on the rows that were routed to them.

Axes: T tokens, D hidden size, E experts, K chosen experts per token, F inner width of an expert, R rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lit_recycle.model.kernels.grouped import Groups, product, weight_gradient


def swiglu_experts(x_TD: Tensor, weights_TK: Tensor, gate_up: Tensor, down: Tensor, groups: Groups) -> Tensor:
    """Sum over the chosen experts of weight · ``down(silu(gate(x)) · up(x))``, ``[T, D]``.

    Args:
        x_TD: Tokens.
        weights_TK: Weights of their choices.
        gate_up: Matrices ``[E, 2F, D]``, gate above up.
        down: Matrices ``[E, D, F]``.
        groups: Rows of the choices.
    """
    return _SwiGLUExperts.apply(x_TD, weights_TK, gate_up, down, groups)


class _SwiGLUExperts(torch.autograd.Function):
    """With a gradient written by hand: autograd's own would keep more (each chosen copy of a token, the experts'
    outputs) and pass over memory more often. Here a row's weight is multiplied into its inner activations, so that the
    rows of a token need only be added up, and its gradient is a dot product of what is at hand.
    """

    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, weights_TK: Tensor, gate_up: Tensor, down: Tensor, groups: Groups) -> Tensor:
        weights_R1 = x_TD.new_zeros(len(groups.tokens_R), 1)
        weights_R1[groups.places_TK.flatten()] = weights_TK.to(x_TD.dtype).view(-1, 1)
        gate_up_R2F = product(x_TD.index_select(0, groups.tokens_R), gate_up, groups)
        gate_RF, up_RF = gate_up_R2F.chunk(2, dim=-1)
        y_RD = product(F.silu(gate_RF).mul_(up_RF).mul_(weights_R1), down, groups)
        ctx.save_for_backward(x_TD, weights_R1, gate_up, down, gate_up_R2F)
        ctx.groups, ctx.weights_dtype = groups, weights_TK.dtype  # indices, a few bytes per choice
        return _sum_choices(y_RD, groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:
        x_TD, weights_R1, gate_up, down, gate_up_R2F = ctx.saved_tensors
        groups: Groups = ctx.groups
        needs_x, _, needs_gate_up, needs_down, _ = ctx.needs_input_grad
        grad_RD = grad_TD.index_select(0, groups.tokens_R)
        gate_RF, up_RF = gate_up_R2F.chunk(2, dim=-1)
        silu_RF = F.silu(gate_RF)
        inner_RF, grad_RF = silu_RF * up_RF, product(grad_RD, down.mT, groups)
        grad_weights_R = (inner_RF * grad_RF).sum(-1, dtype=ctx.weights_dtype)
        grad_down = weight_gradient(grad_RD, inner_RF.mul_(weights_R1), groups, down.dtype) if needs_down else None
        grad_up_RF = silu_RF.mul_(grad_RF.mul_(weights_R1))
        grad_gate_RF = torch.ops.aten.silu_backward(grad_RF.mul_(up_RF), gate_RF)
        grad_R2F = torch.cat((grad_gate_RF, grad_up_RF), dim=-1)
        x_RD = x_TD.index_select(0, groups.tokens_R)
        grad_gate_up = weight_gradient(grad_R2F, x_RD, groups, gate_up.dtype) if needs_gate_up else None
        grad_x_TD = _sum_choices(product(grad_R2F, gate_up.mT, groups), groups) if needs_x else None
        return grad_x_TD, grad_weights_R[groups.places_TK], grad_gate_up, grad_down, None


def _sum_choices(rows_RD: Tensor, groups: Groups) -> Tensor:
    """Add up the rows of each token's choices, ``[T, D]``."""
    return F.embedding_bag(groups.places_TK, rows_RD, mode="sum")
