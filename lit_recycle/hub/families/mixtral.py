"""Mixtral."""

from lit_recycle.hub.blocks import BLOCK, WIDTHS, experts, router
from lit_recycle.hub.family import Family, Native, Routing, Upcycled

AXES = {
    **BLOCK,
    **router("block_sparse_moe.gate.weight"),
    **experts("block_sparse_moe", "w1", "w3", "w2"),
    **router("mlp.gate.weight"),
    **router("mlp.router.weight"),
    **experts("mlp", "w1", "w3", "w2"),
}
FAMILY = Family(
    AXES,
    Routing("softmax"),
    sizes=WIDTHS | {"F": "intermediate_size"},
    native=Native(
        "MixtralForCausalLM",
        {
            "router_score": "softmax",
            "routed_scaling": 1.0,
            "balance_bias": False,
            "shared_expert_size": 0,
            "shared_expert_gate": False,
            "normalize_top_k": True,
            "qk_norm": "none",
            "qkv_bias": False,
        },
        keys={"num_experts": "num_local_experts", "expert_size": "intermediate_size"},
        rank=1,
        moe="block_sparse_moe",
        expert=("w1", "w3", "w2"),
        rope_theta=1_000_000.0,
    ),
    upcycled=Upcycled(
        "MixtralForCausalLM", "num_local_experts", defaults={"sliding_window": None}, refused=("attention_bias",)
    ),
)
