"""StarCoder2, dense."""

from lit_recycle.hub.blocks import BLOCK, DENSE_NOTE
from lit_recycle.hub.dense_layers import AllLayers
from lit_recycle.hub.family import Family

FAMILY = Family(
    {
        **BLOCK,
        "mlp.c_fc.weight": "up: I D*",
        "mlp.c_fc.bias": "I",
        "mlp.c_proj.weight": "down: D+ I*",
        "mlp.c_proj.bias": "D+",
    },
    dense=AllLayers(),
    note=DENSE_NOTE,
)
