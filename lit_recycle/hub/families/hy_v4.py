"""Hunyuan 4."""

from collections.abc import Mapping
from typing import Any

from lit_recycle.hub.blocks import BALANCED, GROUPS
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import Family, Routing


def indexer_types(config: Mapping[str, Any], count: int) -> list[str]:
    return ["full" if i == 0 or i % 4 == 1 else "shared" for i in range(count)]


FAMILY = Family(
    BALANCED,
    Routing("sigmoid", "norm_topk_prob", True, GROUPS),
    Kinds(),
    patterns={"indexer_types": indexer_types},
    identity_unless=("indexer_types", "shared"),
    note="where layers share an indexer, zero-output copies are no identities",
)
