"""Command R, dense."""

from lit_recycle.hub.blocks import DENSE, DENSE_NOTE
from lit_recycle.hub.dense_layers import AllLayers
from lit_recycle.hub.family import Family

FAMILY = Family(DENSE, dense=AllLayers(), note=DENSE_NOTE)
