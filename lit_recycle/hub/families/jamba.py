"""Jamba: Mamba and attention."""

from collections.abc import Mapping
from typing import Any

from lit_recycle.hub.blocks import BLOCK, experts, mlp, router
from lit_recycle.hub.dense_layers import Period
from lit_recycle.hub.family import Family, Routing


def layer_types(config: Mapping[str, Any], count: int) -> list[str]:
    period, offset = config["attn_layer_period"], config["attn_layer_offset"]
    return ["full_attention" if i % period == offset else "linear_attention" for i in range(count)]


FAMILY = Family(
    {
        **BLOCK,
        **mlp("feed_forward", "I"),
        **router("feed_forward.router.weight"),
        **experts("feed_forward"),
        "mamba.out_proj.weight": "D+ mamba*",
        "mamba.out_proj.bias": "D+",
    },
    Routing("softmax", False),
    Period(),
    patterns={"layer_types": layer_types},
    fixed_patterns=True,
    note="the config repeats one pattern: layers are copied by whole periods, as --method stack does",
)
