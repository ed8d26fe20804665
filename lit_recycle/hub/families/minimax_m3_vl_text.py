"""MiniMax-M3, the language model."""

from lit_recycle.hub.blocks import BALANCED
from lit_recycle.hub.dense_layers import Kinds, Prefix
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    {
        **BALANCED,
        "mlp.gate_up_proj.weight": "([gate up] I) D*",
        "mlp.shared_experts.gate_up_proj.weight": "([gate up] S) D*",
    },
    Routing("sigmoid"),
    Kinds(("mlp_layer_types", "moe_layer_freq"), ("sparse", 1), prefix=Prefix(default=0)),
)
