"""dots3-note, the language model."""

from collections.abc import Mapping
from typing import Any

from lit_recycle.hub.blocks import BALANCED, GROUPS
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import Family, Routing


def layer_types(config: Mapping[str, Any], count: int) -> list[str]:
    wide = "indexed_attention" if config.get("use_dsa", True) else "full_attention"
    windows = config.get("use_sliding_window", True)
    return ["sliding_attention" if windows and i >= 2 and i % 4 != 1 else wide for i in range(count)]


FAMILY = Family(
    BALANCED,
    Routing("sigmoid", "norm_topk_prob", True, GROUPS),
    Kinds(),
    patterns={"layer_types": layer_types},
)
