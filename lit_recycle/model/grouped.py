"""Matrix products of many rows with the matrices of their experts.

Axes: T tokens, K chosen experts per token, R rows (at least T · K), E experts, I inputs, O outputs of a matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PAD_16_BIT = 16
"""On a CPU, an expert's rows in 16 bits are padded to a multiple: oneDNN compiles a kernel for each number of rows."""


class Groups(NamedTuple):
    """Rows sorted by expert: one for each choice of a token, and padding behind an expert's rows where there is any.

    A padding row holds the first token. Whoever multiplies rows by their weights takes zero for it.
    """

    tokens_R: Tensor
    """The token of each row."""
    places_TK: Tensor
    """The row of each choice."""
    ends_E: Tensor
    """One past the last row of each expert, padding included, int32."""
    sizes: list[int] | None
    """Rows of each expert, for products expert by expert; None where torch's grouped product takes them all."""


def group_by_expert(chosen_TK: Tensor, counts_E: Tensor, dtype: torch.dtype) -> Groups:
    """Sort the tokens' choices by expert.

    Args:
        chosen_TK: Experts of each token.
        counts_E: How often each expert was chosen.
        dtype: Type of the products.
    """
    order = chosen_TK.flatten().argsort(stable=True)
    tokens_R, counts_E = order // chosen_TK.shape[-1], counts_E.long()
    rows = torch.arange(order.numel(), device=order.device)
    if chosen_TK.is_cuda and dtype in (torch.float32, torch.bfloat16):
        ends_E, sizes = counts_E.cumsum(0), None
    else:
        padded_E = counts_E if dtype.itemsize > 2 else -(-counts_E // PAD_16_BIT) * PAD_16_BIT
        ends_E, sizes = padded_E.cumsum(0), padded_E.tolist()
        rows += (ends_E - padded_E - counts_E.cumsum(0) + counts_E).repeat_interleave(counts_E)
        tokens_R = order.new_zeros(sum(sizes)).index_copy_(0, rows, tokens_R)
    places_TK = torch.empty_like(order).index_copy_(0, order, rows).view_as(chosen_TK)
    return Groups(tokens_R, places_TK, ends_E.int(), sizes)


def product(x_RI: Tensor, weight_EOI: Tensor, groups: Groups) -> Tensor:
    """``x[r] @ weight[e].T`` for each row r of each expert e, in the type of ``x``.

    Raises:
        ValueError: For sizes that torch's grouped product cannot read 16 bytes at a time.
    """
    if groups.sizes is None:
        _check_alignment(weight_EOI.shape, x_RI.dtype)
        return F.grouped_mm(x_RI, weight_EOI.to(x_RI.dtype).mT, offs=groups.ends_E)
    out_RO = x_RI.new_empty(len(x_RI), weight_EOI.shape[1])
    for x, weight, out in zip(x_RI.split(groups.sizes), weight_EOI, out_RO.split(groups.sizes), strict=True):
        if len(x):
            torch.mm(x, weight.to(x.dtype).T, out=out)
    return out_RO


def input_gradient(grad_RO: Tensor, weight_EOI: Tensor, groups: Groups) -> Tensor:
    """``grad[r] @ weight[e]``: the gradient of :func:`product` by ``x``."""
    if groups.sizes is None:
        return F.grouped_mm(grad_RO, weight_EOI.to(grad_RO.dtype), offs=groups.ends_E)
    out_RI = grad_RO.new_empty(len(grad_RO), weight_EOI.shape[2])
    for grad, weight, out in zip(grad_RO.split(groups.sizes), weight_EOI, out_RI.split(groups.sizes), strict=True):
        if len(grad):
            torch.mm(grad, weight.to(grad.dtype), out=out)
    return out_RI


def weight_gradient(grad_RO: Tensor, x_RI: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
    """Sum over the rows r of each expert of ``outer(grad[r], x[r])``: the gradient of :func:`product` by ``weight``."""
    if groups.sizes is None:
        return F.grouped_mm(grad_RO.mT, x_RI, offs=groups.ends_E).to(dtype)
    out_EOI = grad_RO.new_empty(len(groups.ends_E), grad_RO.shape[1], x_RI.shape[1], dtype=dtype)
    for grad, x, out in zip(grad_RO.split(groups.sizes), x_RI.split(groups.sizes), out_EOI, strict=True):
        if grad.dtype == dtype:
            torch.mm(grad.T, x, out=out)
        else:
            out.copy_(grad.T @ x)
    return out_EOI


def _check_alignment(shape: torch.Size, dtype: torch.dtype) -> None:
    multiple = 16 // dtype.itemsize
    if any(size % multiple for size in shape[1:]):
        raise ValueError(
            f"hidden_size and expert_size must be multiples of {multiple} to train in {dtype} on this device; a weight "
            f"of the experts has shape {tuple(shape)}"
        )
