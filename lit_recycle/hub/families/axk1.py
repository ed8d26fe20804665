"""A.X K1."""

from lit_recycle.hub.blocks import BALANCED, GROUPS
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    {
        **BALANCED,
        "post_mlp_layernorm.weight": "norm_of_experts: D",
        "mlp.post_mlp_layernorm.weight": "norm_of_experts: D",
    },
    Routing("sigmoid", "norm_topk_prob", True, GROUPS),
    Kinds(),
)
