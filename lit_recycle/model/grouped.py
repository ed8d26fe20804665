"""Matrix products of many rows with the matrices of their experts.

Axes: T tokens, K chosen experts per token, R rows (at least T · K), E experts, I inputs, O outputs of a matrix.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PAD_BFLOAT16 = 16
"""Rows of an expert in bfloat16 are padded to a multiple: oneDNN compiles a kernel for each number of rows."""
NEIGHBOURS, WASTE, SLACK = 2, 1.25, 16
"""So many experts share a batched product, unless padding them to the largest makes more rows than ``WASTE``
times theirs and ``SLACK`` each: a product of few rows costs what reading its matrix costs."""


class Span(NamedTuple):
    """Neighbouring experts with equally many rows, padding included: one batched product."""

    experts: slice
    start: int
    """The first row."""
    rows: int
    """Of each expert."""

    @property
    def count(self) -> int:
        return self.experts.stop - self.experts.start

    @property
    def end(self) -> int:
        return self.start + self.count * self.rows

    def of(self, rows_RI: Tensor) -> Tensor:
        """The span's rows as ``[experts, rows, I]``; a view."""
        return rows_RI[self.start : self.end].view(self.count, self.rows, rows_RI.shape[1])


class Groups(NamedTuple):
    """Rows sorted by expert: one for each choice of a token, and padding behind an expert's rows where there is any.

    A padding row holds the first token. Whoever multiplies rows by their weights takes zero for it. Where torch has no
    grouped product the experts' products are a loop, batched where neighbours are padded to equally many rows.
    """

    tokens_R: Tensor
    """The token of each row."""
    places_TK: Tensor
    """The row of each choice."""
    ends_E: Tensor
    """Without padding, one past the last row of each expert; int32."""
    spans: list[Span] | None
    """With padding, which experts share a product; None where torch's grouped product takes the rows as they are."""


def group_by_expert(chosen_TK: Tensor, counts_E: Tensor, dtype: torch.dtype) -> Groups:
    """Sort the tokens' choices by expert.

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
        # In float16 a token may overflow in an expert that is not its own, and infinity times zero is no number.
        neighbours = 1 if dtype == torch.float16 else NEIGHBOURS
        spans = pad(counts_E.tolist(), PAD_BFLOAT16 if dtype == torch.bfloat16 else 1, neighbours)
        starts = [span.start + i * span.rows for span in spans for i in range(span.count)]
        rows += (torch.tensor(starts, device=order.device) - ends_E + counts_E).repeat_interleave(counts_E)
        tokens_R = order.new_zeros(spans[-1].end).index_copy_(0, rows, tokens_R)
    places_TK = torch.empty_like(order).index_copy_(0, order, rows).view_as(chosen_TK)
    return Groups(tokens_R, places_TK, ends_E.int(), spans)


def has_grouped_product(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has a grouped product there that is more than a loop over experts."""
    return device.type == "cuda" and dtype in (torch.float32, torch.bfloat16)


def pad(counts: list[int], multiple: int, neighbours: int) -> list[Span]:
    """Divide experts with so many rows into spans of at most so many neighbours."""
    counts = [-(-count // multiple) * multiple for count in counts]
    spans: list[Span] = []
    for first in range(0, len(counts), neighbours):
        some = counts[first : first + neighbours]
        together = max(some) * len(some) <= WASTE * sum(some) + SLACK * len(some)
        for experts in [some] if together else [[count] for count in some]:
            expert, start = (spans[-1].experts.stop, spans[-1].end) if spans else (0, 0)
            spans.append(Span(slice(expert, expert + len(experts)), start, max(experts)))
    return spans


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
    for span in groups.spans:
        torch.bmm(span.of(x_RI), weight_EOI[span.experts].to(x_RI.dtype).mT, out=span.of(out_RO))
    return out_RO


def weight_gradient(grad_RO: Tensor, x_RI: Tensor, groups: Groups, dtype: torch.dtype) -> Tensor:
    """Sum over the rows r of each expert of ``outer(grad[r], x[r])``: the gradient of :func:`product` by ``weight``."""
    if groups.spans is None:
        return F.grouped_mm(grad_RO.mT, x_RI, offs=groups.ends_E).to(dtype)
    out_EOI = grad_RO.new_empty(len(groups.ends_E), grad_RO.shape[1], x_RI.shape[1], dtype=dtype)
    for span in groups.spans:
        if grad_RO.dtype == dtype:
            torch.bmm(span.of(grad_RO).mT, span.of(x_RI), out=out_EOI[span.experts])
        else:
            out_EOI[span.experts].copy_(torch.bmm(span.of(grad_RO).mT, span.of(x_RI)))
    return out_EOI


def _check_alignment(shape: torch.Size, dtype: torch.dtype) -> None:
    multiple = 16 // dtype.itemsize
    if any(size % multiple for size in shape[1:]):
        raise ValueError(
            f"hidden_size and expert_size must be multiples of {multiple} to train in {dtype} on this device; a weight "
            f"of the experts has shape {tuple(shape)}"
        )
