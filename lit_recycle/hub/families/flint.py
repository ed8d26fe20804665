"""Flint."""

from collections.abc import Mapping
from typing import Any

from lit_recycle.hub.blocks import EXPERTS, mlp
from lit_recycle.hub.dense_layers import Listed
from lit_recycle.hub.family import Family, Routing


def layer_types(config: Mapping[str, Any], count: int) -> list[str]:
    return ["full_attention" if i < 2 or i % 4 == 1 or i == count - 1 else "sliding_attention" for i in range(count)]


FAMILY = Family(
    {
        **EXPERTS,
        **mlp("mlp.shared_expert", "S"),
        "self_attn.sinks": "sinks: H",
        "self_attn.softmax_offset": "sinks: H",
    },
    Routing("sigmoid", "norm_topk_prob", True, scaling=None),
    Listed((0, 1)),
    patterns={"layer_types": layer_types},
)
