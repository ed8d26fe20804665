"""dots.llm1."""

from lit_recycle.hub.blocks import BALANCED, GROUPS
from lit_recycle.hub.dense_layers import Prefix
from lit_recycle.hub.family import Family, Native, Routing

FAMILY = Family(
    BALANCED,
    Routing("sigmoid", "norm_topk_prob", groups=GROUPS),
    Prefix(),
    native=Native(
        "Dots1ForCausalLM",
        {
            "router_score": "sigmoid",
            "balance_bias": True,
            "shared_expert_gate": False,
            "qk_norm": "head",
            "qkv_bias": False,
        },
        keys={
            "num_experts": "n_routed_experts",
            "expert_size": "moe_intermediate_size",
            "dense_size": "intermediate_size",
            "normalize_top_k": "norm_topk_prob",
            "routed_scaling": "routed_scaling_factor",
        },
        rank=5,
        shared="shared_experts",
        shared_count="n_shared_experts",
        extra={"n_group": 1, "topk_group": 1},
    ),
)
