"""GLM-4.5 and 4.6."""

from dataclasses import replace

from lit_recycle.hub.families.deepseek_v3 import FAMILY as DEEPSEEK
from lit_recycle.hub.family import Native

FAMILY = replace(
    DEEPSEEK,
    native=Native(
        "Glm4MoeForCausalLM",
        {"router_score": "sigmoid", "balance_bias": True, "shared_expert_gate": False},
        keys={
            "num_experts": "n_routed_experts",
            "expert_size": "moe_intermediate_size",
            "dense_size": "intermediate_size",
            "normalize_top_k": "norm_topk_prob",
            "routed_scaling": "routed_scaling_factor",
        },
        rank=10,
        shared="shared_experts",
        shared_count="n_shared_experts",
        qkv_bias="attention_bias",
        qk_norm="use_qk_norm",
        rope_fraction=0.5,
        extra={"n_group": 1, "topk_group": 1, "num_nextn_predict_layers": 0},
    ),
)
