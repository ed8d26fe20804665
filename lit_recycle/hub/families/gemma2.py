"""Gemma 2, dense."""

from lit_recycle.hub.blocks import DENSE, DENSE_NOTE
from lit_recycle.hub.dense_layers import AllLayers
from lit_recycle.hub.family import Family
from lit_recycle.hub.patterns import cycle

FAMILY = Family(
    DENSE, dense=AllLayers(), note=DENSE_NOTE, patterns={"layer_types": cycle("sliding_attention", "full_attention")}
)
