"""Gemma 4, the language model: a dense network in each layer, and experts beside it in some models."""

from collections.abc import Mapping
from typing import Any

from lit_recycle.hub.blocks import DENSE
from lit_recycle.hub.dense_layers import Flag
from lit_recycle.hub.family import Family, Routing


def layer_types(config: Mapping[str, Any], count: int) -> list[str]:
    """Each sixth layer and the last one see all of a text."""
    return ["sliding_attention" if (i + 1) % 6 and i < count - 1 else "full_attention" for i in range(count)]


FAMILY = Family(
    {
        **DENSE,
        "layer_scalar": "residual: one",
        "router.proj.weight": "router: E D*",
        "router.per_expert_scale": "E",
        "experts.gate_up_proj": "E ([gate up] F) D*",
        "experts.down_proj": "down: E D+ F*",
    },
    Routing("softmax"),
    Flag("enable_moe_block"),
    patterns={"layer_types": layer_types},
    no_depth={
        "hidden_size_per_layer_input": "one embedding matrix serves all layers",
        "num_kv_shared_layers": "the last layers use keys and values of earlier ones",
    },
    note="models whose layers share keys and values, or have embeddings of their own, do not grow in depth",
)
