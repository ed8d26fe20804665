"""Qwen2-MoE and Qwen1.5-MoE."""

from lit_recycle.hub.blocks import DENSE_WIDTHS, EXPERTS, mlp
from lit_recycle.hub.dense_layers import Listed
from lit_recycle.hub.family import Family, Native, Routing, Upcycled

SHARED = mlp("mlp.shared_expert", "S") | {"mlp.shared_expert_gate.weight": "one D*"}
FAMILY = Family(
    EXPERTS | SHARED,
    Routing("softmax", "norm_topk_prob"),
    Listed(),
    sizes=DENSE_WIDTHS | {"F": "moe_intermediate_size", "S": "shared_expert_intermediate_size"},
    native=Native(
        "Qwen2MoeForCausalLM",
        {
            "router_score": "softmax",
            "routed_scaling": 1.0,
            "balance_bias": False,
            "shared_expert_gate": True,
            "qk_norm": "none",
        },
        keys={
            "num_experts": "num_experts",
            "expert_size": "moe_intermediate_size",
            "dense_size": "intermediate_size",
            "normalize_top_k": "norm_topk_prob",
            "shared_expert_size": "shared_expert_intermediate_size",
        },
        rank=4,
        qkv_bias="qkv_bias",
    ),
    upcycled=Upcycled(
        "Qwen2MoeForCausalLM",
        "num_experts",
        "moe_intermediate_size",
        config={"norm_topk_prob": True, "qkv_bias": True},
        refused=("attention_bias",),
        shared_size=64,
        shared=[suffix for suffix in SHARED if not suffix.endswith("bias")],
    ),
)
