"""LFM2 MoE: short convolutions and attention."""

from lit_recycle.hub.blocks import BLOCK, experts, router
from lit_recycle.hub.dense_layers import Prefix
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    {
        **BLOCK,
        "self_attn.out_proj.weight": "D+ (H P)*",
        "conv.out_proj.weight": "D+ channels*",
        "conv.out_proj.bias": "D+",
        "feed_forward.w1.weight": "gate: I D*",
        "feed_forward.w3.weight": "up: I D*",
        "feed_forward.w2.weight": "down: D+ I*",
        **router("feed_forward.gate.weight"),
        **experts("feed_forward", "w1", "w3", "w2"),
        "feed_forward.expert_bias": "balance: E",
    },
    Routing("sigmoid", "norm_topk_prob", True),
    Prefix("num_dense_layers", 2),
)
