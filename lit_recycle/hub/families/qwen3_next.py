"""Qwen3-Next: linear and full attention."""

from dataclasses import replace

from lit_recycle.hub.blocks import MTP_NOTE
from lit_recycle.hub.families.qwen2_moe import FAMILY as QWEN2_MOE
from lit_recycle.hub.family import Routing
from lit_recycle.hub.patterns import every

FAMILY = replace(
    QWEN2_MOE,
    axes={**QWEN2_MOE.axes, "linear_attn.out_proj.weight": "D+ values*"},
    routing=Routing("softmax", "norm_topk_prob", True),
    sizes={},
    tail=r"mtp\.layers",
    patterns={"layer_types": every("full_attention_interval", others="linear_attention")},
    note=MTP_NOTE,
    native=None,
    upcycled=None,
)
