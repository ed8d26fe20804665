"""Qwen3-MoE."""

from lit_recycle.hub.blocks import DENSE_WIDTHS, EXPERTS
from lit_recycle.hub.dense_layers import Listed
from lit_recycle.hub.family import Family, Native, Routing, Upcycled

FAMILY = Family(
    EXPERTS,
    Routing("softmax", "norm_topk_prob"),
    Listed(),
    sizes=DENSE_WIDTHS | {"F": "moe_intermediate_size"},
    native=Native(
        "Qwen3MoeForCausalLM",
        {
            "router_score": "softmax",
            "routed_scaling": 1.0,
            "balance_bias": False,
            "shared_expert_size": 0,
            "shared_expert_gate": False,
            "qk_norm": "head",
            "qkv_bias": False,
        },
        keys={
            "num_experts": "num_experts",
            "expert_size": "moe_intermediate_size",
            "dense_size": "intermediate_size",
            "normalize_top_k": "norm_topk_prob",
        },
        rank=3,
    ),
    upcycled=Upcycled(
        "Qwen3MoeForCausalLM",
        "num_experts",
        "moe_intermediate_size",
        config={"norm_topk_prob": True},
        refused=("use_sliding_window",),
    ),
)
