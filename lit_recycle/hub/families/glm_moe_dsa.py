"""GLM-5."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lit_recycle.hub.blocks import MTP_NOTE
from lit_recycle.hub.families.deepseek_v32 import FAMILY as DEEPSEEK_V32


def indexer_types(config: Mapping[str, Any], count: int) -> list[str]:
    """A layer finds the keys that it attends to, or goes by those of the one before."""
    if pattern := config.get("index_topk_pattern"):
        return [{"F": "full", "S": "shared"}.get(kind, kind) for kind in pattern]
    step, offset = max(config.get("index_topk_freq", 1), 1), config.get("index_skip_topk_offset", 2)
    return ["shared" if max(i - offset + 1, 0) % step else "full" for i in range(count)]


FAMILY = replace(
    DEEPSEEK_V32,
    patterns={"indexer_types": indexer_types},
    identity_unless=("indexer_types", "shared"),
    note="where layers share an indexer, zero-output copies are no identities; " + MTP_NOTE,
)
