"""MiniMax-M3, the language model."""

from lit_recycle.hub.blocks import BALANCED, experts, mlp, router
from lit_recycle.hub.dense_layers import Kinds, Prefix
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    {
        **BALANCED,
        **router("block_sparse_moe.gate.weight"),
        **experts("block_sparse_moe", "w1", "w3", "w2"),
        **mlp("block_sparse_moe.shared_experts", "S"),
        "block_sparse_moe.e_score_correction_bias": "balance: E",
        "mlp.gate_up_proj.weight": "([gate up] I) D*",
        "mlp.shared_experts.gate_up_proj.weight": "([gate up] S) D*",
    },
    Routing("sigmoid"),
    Kinds(("mlp_layer_types", "moe_layer_freq"), ("sparse", 1), prefix=Prefix(default=0)),
)
