"""MiMo-V2-Flash."""

from lit_recycle.hub.blocks import BALANCED, GROUPS, MTP_NOTE
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    BALANCED | {"self_attn.sinks": "sinks: H", "self_attn.attention_sink_bias": "sinks: H"},
    Routing("sigmoid", "norm_topk_prob", True, GROUPS),
    Kinds(),
    patterns={
        "layer_types": lambda config, count: [
            "sliding_attention" if i and (i + 1) % 6 else "full_attention" for i in range(count)
        ]
    },
    tail=r"model\.mtp\.layers",
    note=MTP_NOTE,
)
