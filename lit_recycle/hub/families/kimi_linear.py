"""Kimi Linear: linear and latent attention."""

from collections.abc import Mapping
from typing import Any

from lit_recycle.hub.blocks import BALANCED, experts, linear_attention, mlp, router
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import Family, Routing


def layer_types(config: Mapping[str, Any], count: int) -> list[str]:
    """From the list of layers with full attention, which counts from one."""
    listed = (config.get("linear_attn_config") or {}).get("full_attn_layers", range(5, count + 1, 4))
    return ["full_attention" if i + 1 in listed else "linear_attention" for i in range(count)]


FAMILY = Family(
    {
        **BALANCED,
        **mlp("block_sparse_moe", "I"),
        **router("block_sparse_moe.gate.weight"),
        **experts("block_sparse_moe", "w1", "w3", "w2"),
        **mlp("block_sparse_moe.shared_experts", "S"),
        "block_sparse_moe.gate.e_score_correction_bias": "balance: E",
        **linear_attention("self_attn", "self_attn"),
        "self_attn.f_a_proj.weight": "forget_in: ...",
        "self_attn.f_b_proj.weight": "forget_out: ...",
        "self_attn.forget_gate.f_a_proj.weight": "forget_in: ...",
        "self_attn.forget_gate.f_b_proj.weight": "forget_out: ...",
    },
    Routing("sigmoid", "moe_renormalize", True, ("num_expert_group", "topk_group")),
    Kinds(),
    patterns={"layer_types": layer_types},
    indices={"linear_attn_config.full_attn_layers": 1, "linear_attn_config.kda_layers": 1},
)
