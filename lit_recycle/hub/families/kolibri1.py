"""Kolibri 1."""

from lit_recycle.hub.blocks import BALANCED
from lit_recycle.hub.family import Family, Routing
from lit_recycle.hub.patterns import every

FAMILY = Family(
    {
        **BALANCED,
        "moe.router.expert_bias": "balance: E",
        "post_attn_norm.weight": "norm_of_attention: D",
        "post_self_attn_layernorm.weight": "norm_of_attention: D",
        "post_ffn_norm.weight": "norm_of_experts: D",
        "post_mlp_layernorm.weight": "norm_of_experts: D",
    },
    Routing("sigmoid", "norm_topk_prob", scaling=None),
    patterns={"layer_types": every("full_attention_interval", 5)},
)
