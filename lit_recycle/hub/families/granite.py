"""Granite 3, dense."""

from lit_recycle.hub.blocks import DENSE, DENSE_WIDTHS, UPCYCLE_NOTE
from lit_recycle.hub.dense_layers import AllLayers
from lit_recycle.hub.family import Family

FAMILY = Family(DENSE, dense=AllLayers(), sizes=DENSE_WIDTHS, note=UPCYCLE_NOTE, becomes="granitemoe")
