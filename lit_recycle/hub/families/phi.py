"""Phi 1 to 2, dense."""

from lit_recycle.hub.blocks import BLOCK, DENSE_NOTE
from lit_recycle.hub.dense_layers import AllLayers
from lit_recycle.hub.family import Family

FAMILY = Family(
    {
        **BLOCK,
        "self_attn.dense.weight": "D+ (H P)*",
        "self_attn.dense.bias": "D+",
        "mlp.fc1.weight": "up: I D*",
        "mlp.fc1.bias": "I",
        "mlp.fc2.weight": "down: D+ I*",
        "mlp.fc2.bias": "D+",
    },
    dense=AllLayers(),
    note=DENSE_NOTE,
)
