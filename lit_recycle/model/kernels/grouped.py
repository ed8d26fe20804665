"""Matrix products of many rows with the matrices of their experts.

Axes: T tokens, K chosen experts per token, R rows (at least T · K), E experts, I inputs, O outputs of a matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MULTIPLE, SIZES = 16, 16
"""Rows of an expert in bfloat16 are padded to a multiple, and to one of so many sizes between a power of two and the
next: oneDNN compiles a kernel for each number of rows, and keeps 1,024 of all kinds."""
WASTE, SLACK = 1.1, 16
"""Two experts share a batched product, unless padding the smaller to the larger makes more rows than ``WASTE`` times
theirs and ``SLACK`` each: a product of few rows costs what reading its matrix costs."""


class Span(NamedTuple):
    """One expert, or two with equally many rows, padding included: one batched product."""

    experts: slice
    """With a step: any two are one, and their matrices need not lie side by side. (Where they do not, MKL computes
    their gradients one by one: it batches what it reads with a step, but not what it writes.)"""
    batch: int
    """One or two."""
    start: int
    """The first row."""
    rows: int
    """Of each expert."""

    @property
    def end(self) -> int:
        return self.start + self.batch * self.rows


class Groups(NamedTuple):
    """Rows grouped by expert: one for each choice of a token, and padding behind an expert's rows where there is any.

    A padding row holds the first token. Whoever multiplies rows by their weights takes zero for it. Where torch has no
    grouped product the experts' products are a loop, over two at once where they are padded to equally many rows.
    """

    tokens_R: Tensor
    """The token of each row."""
    places_TK: Tensor
    """The row of each choice."""
    ends_E: Tensor
    """One past the last row of each expert, in the order of experts and without padding; int32. Unused with spans."""
    spans: list[Span] | None
    """In the order of the rows, which experts share a product; None where torch's grouped product takes the rows."""

    def parts(self, rows_RI: Tensor) -> list[Tensor]:
        """The rows of each span as ``[batch, rows, I]``; views."""
        assert self.spans is not None
        parts = rows_RI.split([span.batch * span.rows for span in self.spans])
        return [part.view(span.batch, span.rows, part.shape[1]) for part, span in zip(parts, self.spans, strict=True)]


def group_by_expert(chosen_TK: Tensor, counts_E: Tensor, dtype: torch.dtype) -> Groups:
    """Give each choice a row among those of its expert.

    Args:
        chosen_TK: Experts of each token.
        counts_E: How often each expert was chosen.
        dtype: Type of the products.
    """
    order = chosen_TK.flatten().argsort(stable=True)
    tokens_R, counts_E = order // chosen_TK.shape[-1], counts_E.long()
    rows, ends_E = torch.arange(order.numel(), device=order.device), counts_E.cumsum(0)
    spans = None
    if not has_grouped_product(chosen_TK.device, dtype):
        spans, starts = pad(counts_E.tolist(), dtype), [0] * len(counts_E)
        for span in spans:
            starts[span.experts] = [span.start + i * span.rows for i in range(span.batch)]
        rows += (torch.tensor(starts, device=order.device) - ends_E + counts_E).repeat_interleave(counts_E)
        tokens_R = order.new_zeros(spans[-1].end).index_copy_(0, rows, tokens_R)
    places_TK = torch.empty_like(order).index_copy_(0, order, rows).view_as(chosen_TK)
    return Groups(tokens_R, places_TK, ends_E.int(), spans)


def has_grouped_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has a grouped product there that is more than a loop over experts."""
    return device.type == "cuda" and dtype in (torch.float32, torch.bfloat16)


def pad(counts: list[int], dtype: torch.dtype) -> list[Span]:
    """Divide experts with so many rows into spans, those of most rows first, so that like follow each other."""
    if dtype == torch.bfloat16:
        counts = [_size(count) for count in counts]
    # In float16 a token may overflow in an expert that is not its own, and infinity times zero is no number.
    pairs = dtype != torch.float16
    experts = sorted(range(len(counts)), key=counts.__getitem__, reverse=True)
    spans: list[Span] = []
    while experts:
        together, rows = experts[:2], counts[experts[0]]
        if not pairs or len(together) * rows > WASTE * sum(counts[e] for e in together) + SLACK * len(together):
            together = together[:1]
        first, last = min(together), max(together)
        chosen = slice(first, last + 1, last - first or 1)
        spans.append(Span(chosen, len(together), spans[-1].end if spans else 0, rows))
        del experts[: len(together)]
    return spans


def _size(count: int) -> int:
    """The least size that holds so many rows."""
    multiple = max(MULTIPLE, 2 ** count.bit_length() // (2 * SIZES))
    return -(-count // multiple) * multiple


def product(x_RI: Tensor, weight_EOI: Tensor, groups: Groups) -> Tensor:
    """``x[r] @ weight[e].T`` for each row r of each expert e, in the type of ``x``.

    Its gradient by ``x`` is the product of the output's gradient with ``weight.mT``.

    Raises:
        ValueError: For sizes that torch's grouped product cannot read 16 bytes at a time.
    """
    if groups.spans is None:
        _check_alignment(weight_EOI.shape, x_RI.dtype)
        return F.grouped_mm(x_RI, weight_EOI.to(x_RI.dtype).mT, offs=groups.ends_E)
    out_RO = x_RI.new_empty(len(x_RI), weight_EOI.shape[1])
    for span, x, out in zip(groups.spans, groups.parts(x_RI), groups.parts(out_RO), strict=True):
        torch.bmm(x, weight_EOI[span.experts].to(x.dtype).mT, out=out)
    return out_RO


def weight_gradient(grad_RO: Tensor, x_RI: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
    """Sum over the rows r of each expert of ``outer(grad[r], x[r])``: the gradient of :func:`product` by ``weight``."""
    if groups.spans is None:
        return F.grouped_mm(grad_RO.mT, x_RI, offs=groups.ends_E).to(dtype)
    out_EOI = grad_RO.new_empty(len(groups.ends_E), grad_RO.shape[1], x_RI.shape[1], dtype=dtype)
    for span, grad, x in zip(groups.spans, groups.parts(grad_RO), groups.parts(x_RI), strict=True):
        if grad.dtype == dtype:
            torch.bmm(grad.mT, x, out=out_EOI[span.experts])
        else:
            out_EOI[span.experts].copy_(torch.bmm(grad.mT, x))
    return out_EOI


def _check_alignment(shape: torch.Size, dtype: torch.dtype) -> None:
    multiple = 16 // dtype.itemsize
    if any(size % multiple for size in shape[1:]):
        raise ValueError(
            f"hidden_size and expert_size must be multiples of {multiple} to train in {dtype} on this device; a weight "
            f"of the experts has shape {tuple(shape)}"
        )
