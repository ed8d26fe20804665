"""Granite 4 Hybrid: Mamba and attention."""

from dataclasses import replace

from lit_recycle.hub.families.granitemoe import FAMILY as GRANITEMOE
from lit_recycle.hub.patterns import cycle

FAMILY = replace(
    GRANITEMOE,
    axes={**GRANITEMOE.axes, "mamba.out_proj.weight": "D+ mamba*", "mamba.out_proj.bias": "D+"},
    sizes={},
    patterns={"layer_types": cycle("linear_attention")},
)
