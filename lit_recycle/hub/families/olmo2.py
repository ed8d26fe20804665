"""OLMo 2, dense."""

from lit_recycle.hub.blocks import DENSE, DENSE_WIDTHS, FULL_NORM, UPCYCLE_NOTE
from lit_recycle.hub.dense_layers import AllLayers
from lit_recycle.hub.family import Family

FAMILY = Family(
    DENSE | FULL_NORM | {"post_feedforward_layernorm.weight": "D"},
    dense=AllLayers(),
    sizes=DENSE_WIDTHS,
    note=UPCYCLE_NOTE,
    becomes="flex_olmo",
    implied={"rms_norm_eps": 1e-5},
)
