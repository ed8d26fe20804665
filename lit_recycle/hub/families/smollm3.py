"""SmolLM3, dense."""

from lit_recycle.hub.blocks import DENSE, DENSE_NOTE
from lit_recycle.hub.dense_layers import AllLayers
from lit_recycle.hub.family import Family
from lit_recycle.hub.patterns import every

FAMILY = Family(
    DENSE,
    dense=AllLayers(),
    note=DENSE_NOTE,
    patterns={"no_rope_layers": every("no_rope_layer_interval", kind=0, others=1)},
)
