"""Ling 3 and Ring 3: linear and latent attention."""

from lit_recycle.hub.blocks import BALANCED, MTP_NOTE
from lit_recycle.hub.dense_layers import Kinds, Prefix
from lit_recycle.hub.family import Family, Routing
from lit_recycle.hub.patterns import every

FAMILY = Family(
    {
        **BALANCED,
        "mlp.gate.expert_bias": "balance: E",
        "attention.dense.weight": "D+ (H P)*",
    },
    Routing("sigmoid", "moe_renormalize", True, ("num_expert_group", "topk_group")),
    Kinds(prefix=Prefix(default=2)),
    patterns={"layer_types": every("layer_group_size", 6, others="linear_attention")},
    note=MTP_NOTE,
)
