"""Attention within documents that are packed into rows.

Axes: B batch, S positions, N documents of all rows, H query heads, G key and value heads, P head_dim, T = B·S.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn

_VARLEN = inspect.signature(varlen_attn).parameters
"""torch 2.11 to 2.13 differ in how the causal mask and grouped heads are asked for."""


class DocumentMask(NamedTuple):
    """Which positions see each other: those before them in their document. One of the two forms is given.

    Attributes:
        dense_B1SS: whether the query of an axis' row sees the key of its column.
        borders_N: where documents begin in all rows one after the other, and the end of the last; int32, N + 1.
        longest: positions of the longest document.
    """

    dense_B1SS: Tensor | None = None
    borders_N: Tensor | None = None
    longest: int = 0


def document_mask(documents_BS: Tensor, dtype: torch.dtype) -> DocumentMask:
    """The mask for rows whose positions are in documents of these numbers, which never fall in a row.

    Dense; on a GPU, for attention in 16 bits, which torch has a kernel for, as borders; the host waits to know them.
    """
    if documents_BS.is_cuda and dtype in (torch.bfloat16, torch.float16):
        return _borders(documents_BS)
    same_BSS = documents_BS.unsqueeze(2) == documents_BS.unsqueeze(1)
    return DocumentMask(same_BSS.tril().unsqueeze(1))


def _borders(documents_BS: Tensor) -> DocumentMask:
    begins_T = _begins(documents_BS).flatten()
    end = torch.tensor([begins_T.numel()], device=begins_T.device)
    borders_N = torch.cat((begins_T.nonzero().squeeze(1), end)).to(torch.int32)
    return DocumentMask(borders_N=borders_N, longest=int(borders_N.diff().max()))


def positions_in_documents(documents_BS: Tensor) -> Tensor:
    """Each position counted from the beginning of its document, ``[B, S]``."""
    row_S = torch.arange(documents_BS.shape[1], device=documents_BS.device)
    begin_BS = torch.where(_begins(documents_BS), row_S, 0).cummax(1).values
    return row_S - begin_BS


def _begins(documents_BS: Tensor) -> Tensor:
    """Whether a document begins at a position; one begins with each row."""
    begins_BS = torch.ones_like(documents_BS, dtype=torch.bool)
    begins_BS[:, 1:] = documents_BS[:, 1:] != documents_BS[:, :-1]
    return begins_BS


def attend_by_borders(q_BHSP: Tensor, k_BGSP: Tensor, v_BGSP: Tensor, mask: DocumentMask) -> Tensor:
    """Causal attention within documents by torch's kernel for sequences of various lengths, ``[B, H, S, P]``."""
    batch, heads = q_BHSP.shape[:2]
    assert mask.borders_N is not None
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in _VARLEN else {"is_causal": True}
    if k_BGSP.shape[1] != heads:
        if "enable_gqa" in _VARLEN:
            options["enable_gqa"] = True
        else:
            k_BGSP, v_BGSP = (t.repeat_interleave(heads // t.shape[1], dim=1) for t in (k_BGSP, v_BGSP))
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (q_BHSP, k_BGSP, v_BGSP))
    out_THP = varlen_attn(q, k, v, mask.borders_N, mask.borders_N, mask.longest, mask.longest, **options)
    assert isinstance(out_THP, Tensor)
    return out_THP.unflatten(0, (batch, -1)).transpose(1, 2)
