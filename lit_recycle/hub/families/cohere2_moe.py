"""Command A+."""

from collections.abc import Mapping
from typing import Any

from lit_recycle.hub.blocks import SHARED
from lit_recycle.hub.dense_layers import Kinds, Prefix
from lit_recycle.hub.family import Family, Routing


def layer_types(config: Mapping[str, Any], count: int) -> list[str]:
    """Leading dense layers have a pattern of their own."""
    dense = config.get("first_k_dense_replace") or 0
    steps = (config.get("prefix_dense_sliding_window_pattern", 1), config.get("sliding_window_pattern", 4))
    places = [(i + 1, steps[0]) if i < dense else (i - dense + 1, steps[1]) for i in range(count)]
    return ["sliding_attention" if place % step else "full_attention" for place, step in places]


FAMILY = Family(
    SHARED,
    Routing("top-k softmax", "norm_topk_prob", True, scaling=None, key="expert_selection_fn"),
    Kinds(prefix=Prefix(default=0)),
    patterns={"layer_types": layer_types},
)
