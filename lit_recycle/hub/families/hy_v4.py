"""Hunyuan 4."""

from collections.abc import Mapping
from typing import Any

from lit_recycle.hub.blocks import BALANCED, GROUPS, Axes
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import OTHERS, Family, Routing


def indexer_types(config: Mapping[str, Any], count: int) -> list[str]:
    return ["full" if i == 0 or i % 4 == 1 else "shared" for i in range(count)]


def streams(theirs: str, ours: str) -> Axes:
    """What mixes the residual streams around attention or a network."""
    return {
        name: f"{ours}_{part}: ..."
        for part in ("fn", "base", "scale")
        for name in (f"hc_pre.{theirs}.hc_{part}", f"{ours}.{part}")
    }


FAMILY = Family(
    {
        **BALANCED,
        **streams("hc_attn_layer", "attn_hc"),
        **streams("hc_mlp_layer", "ffn_hc"),
        "mlp.linear_gate.weight": "gate: I D*",
        "mlp.shared_experts.linear_gate.weight": "gate: S D*",
        "self_attn.linear_gate.weight": "attention_gate: heads D*",
        "self_attn.gate_proj.weight": "attention_gate: heads D*",
        "self_attn.learnable_sink_param": "sinks: H",
        "self_attn.sinks": "sinks: H",
    },
    Routing("sigmoid", "norm_topk_prob", True, GROUPS),
    Kinds(),
    others={
        **OTHERS,
        **{f"hc_pre.hc_head.hc_head_{part}": f"head_{part}: ..." for part in ("fn", "base", "scale")},
        **{f"hc_head.hc_{part}": f"head_{part}: ..." for part in ("fn", "base", "scale")},
    },
    patterns={"indexer_types": indexer_types},
    identity_unless=("indexer_types", "shared"),
    note="where layers share an indexer, zero-output copies are no identities",
)
