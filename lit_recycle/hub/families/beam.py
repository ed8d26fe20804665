"""Beam."""

from collections.abc import Mapping
from typing import Any

from lit_recycle.hub.blocks import BALANCED, GROUPS
from lit_recycle.hub.dense_layers import Kinds, Prefix
from lit_recycle.hub.family import Family, Routing


def layer_types(config: Mapping[str, Any], count: int) -> list[str]:
    return ["full_attention" if (i + 1) % 6 == 0 or i == count - 1 else "sliding_attention" for i in range(count)]


FAMILY = Family(
    BALANCED,
    Routing("sigmoid", "norm_topk_prob", True, GROUPS),
    Kinds(prefix=Prefix(default=3)),
    identity=False,
    note="zero-output copies are identities up to the epsilon of its norms: each layer scales the residual stream",
    patterns={"layer_types": layer_types},
)
