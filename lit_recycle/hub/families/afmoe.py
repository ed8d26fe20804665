"""AFMoE: Trinity."""

from lit_recycle.hub.blocks import BLOCK, experts, mlp, router
from lit_recycle.hub.dense_layers import Prefix
from lit_recycle.hub.family import Family, Routing
from lit_recycle.hub.patterns import every

FAMILY = Family(
    {
        **BLOCK,
        **mlp("mlp", "I"),
        **router("mlp.router.gate.weight"),
        **experts("mlp"),
        **mlp("mlp.shared_experts", "S"),
        "mlp.expert_bias": "balance: E",
    },
    Routing("sigmoid"),
    Prefix("num_dense_layers", 1),
    patterns={"layer_types": every("global_attn_every_n_layers")},
)
