"""Gemma 3, dense, the language model."""

from lit_recycle.hub.blocks import DENSE, DENSE_NOTE
from lit_recycle.hub.dense_layers import AllLayers
from lit_recycle.hub.family import Family
from lit_recycle.hub.patterns import every

FAMILY = Family(DENSE, dense=AllLayers(), note=DENSE_NOTE, patterns={"layer_types": every("sliding_window_pattern", 6)})
