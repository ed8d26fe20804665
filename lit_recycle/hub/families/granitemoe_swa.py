"""Granite 4 MoE with sliding windows."""

from dataclasses import replace

from lit_recycle.hub.families.granitemoe import FAMILY as GRANITEMOE

FAMILY = replace(
    GRANITEMOE,
    sizes={},
    patterns={
        "layer_types": lambda config, count: ["sliding_attention" if i % 4 else "full_attention" for i in range(count)]
    },
)
