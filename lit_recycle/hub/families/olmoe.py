"""OLMoE."""

from lit_recycle.hub.blocks import EXPERTS, FULL_NORM, WIDTHS
from lit_recycle.hub.family import Family, Native, Routing

FAMILY = Family(
    EXPERTS | FULL_NORM,
    Routing("softmax", "norm_topk_prob"),
    sizes=WIDTHS | {"F": "intermediate_size"},
    free_head_dim=False,
    native=Native(
        "OlmoeForCausalLM",
        {
            "router_score": "softmax",
            "routed_scaling": 1.0,
            "balance_bias": False,
            "shared_expert_size": 0,
            "shared_expert_gate": False,
            "qk_norm": "full",
            "qkv_bias": False,
        },
        keys={
            "num_experts": "num_experts",
            "expert_size": "intermediate_size",
            "normalize_top_k": "norm_topk_prob",
        },
        rank=2,
        head_dim=False,
    ),
)
