"""Causal grouped-query attention with rotary positions.

Axes: B batch, S new positions, C cached and new positions, H query heads, G key and value heads, P head_dim.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_recycle.model.config import MoEConfig
from lit_recycle.model.documents import DocumentMask, attend_by_borders
from lit_recycle.model.norm import RMSNorm
from lit_recycle.model.rotary import Rotation, rotate

KeyValues = tuple[Tensor, Tensor]
"""Keys and values of one layer's past positions, each of shape ``[B, G, C, P]``."""


class Attention(nn.Module):
    """Grouped-query attention over ``scaled_dot_product_attention``, with optional QK-norm and QKV biases."""

    def __init__(self, config: MoEConfig) -> None:
        super().__init__()
        assert config.num_kv_heads is not None and config.head_dim is not None
        self.config = config
        width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)
        if config.qk_norm != "none":
            full = config.qk_norm == "full"
            self.q_norm = RMSNorm(width if full else config.head_dim, eps=config.norm_eps)
            self.k_norm = RMSNorm(kv_width if full else config.head_dim, eps=config.norm_eps)

    def forward(
        self, x_BSD: Tensor, rotation: Rotation, past: KeyValues | None = None, documents: DocumentMask | None = None
    ) -> tuple[Tensor, KeyValues]:
        """Attend to the past and to the positions of ``x_BSD`` itself; returns the output and all keys and values."""
        q, k, v = self.q_proj(x_BSD), self.k_proj(x_BSD), self.v_proj(x_BSD)
        if self.config.qk_norm == "full":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k, v = (t.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2) for t in (q, k, v))
        if self.config.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, rotation), rotate(k, rotation)
        if past is not None:
            k, v = torch.cat((past[0], k), dim=2), torch.cat((past[1], v), dim=2)
        assert past is None or q.shape[2] == 1, "a cache is continued one position at a time"
        return self.o_proj(attend(q, k, v, past is None, documents).transpose(1, 2).flatten(-2)), (k, v)


def attend(
    q_BHSP: Tensor, k_BGCP: Tensor, v_BGCP: Tensor, is_causal: bool, documents: DocumentMask | None = None
) -> Tensor:
    """torch's attention, ``[B, H, S, P]``; on a CPU in float32, in which its kernel is faster than in bfloat16."""
    if q_BHSP.device.type == "cpu" and q_BHSP.dtype == torch.bfloat16:
        with torch.autocast("cpu", enabled=False):
            return attend(q_BHSP.float(), k_BGCP.float(), v_BGCP.float(), is_causal, documents).to(q_BHSP.dtype)
    if documents is not None and documents.borders_N is not None:
        return attend_by_borders(q_BHSP, k_BGCP, v_BGCP, documents)
    grouped, mask = k_BGCP.shape[1] != q_BHSP.shape[1], documents and documents.dense_B1SS
    causal = is_causal and mask is None
    return F.scaled_dot_product_attention(q_BHSP, k_BGCP, v_BGCP, mask, is_causal=causal, enable_gqa=grouped)
