"""Gemma 4, the language model: a dense network in each layer, and experts beside it in some models."""

from lit_recycle.hub.blocks import DENSE
from lit_recycle.hub.dense_layers import Flag
from lit_recycle.hub.family import Family, Routing
from lit_recycle.hub.patterns import every

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
    patterns={"layer_types": every("sliding_window_pattern", 6)},
    no_depth={
        "hidden_size_per_layer_input": "one embedding matrix serves all layers",
        "num_kv_shared_layers": "the last layers use keys and values of earlier ones",
    },
    note="models whose layers share keys and values, or have embeddings of their own, do not grow in depth",
)
