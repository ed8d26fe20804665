"""Qwen4-Exp, the language model: linear and indexed attention, several residual streams."""

from dataclasses import replace

from lit_recycle.hub.families.qwen3_next import FAMILY as QWEN3_NEXT
from lit_recycle.hub.patterns import every

FAMILY = replace(
    QWEN3_NEXT,
    tail="",
    patterns={"layer_types": every("full_attention_interval", kind="indexed_attention", others="linear_attention")},
    no_depth={"ple_layer_ids": "a layer's table of n-grams has a size of its own"},
    note="models with tables of n-grams do not grow in depth",
)
