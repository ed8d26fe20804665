"""Qwen2 and 2.5, dense."""

from dataclasses import replace

from lit_recycle.hub.families.llama import FAMILY as LLAMA
from lit_recycle.hub.family import Native

FAMILY = replace(
    LLAMA,
    native=Native(
        "Qwen2ForCausalLM",
        {"qk_norm": "none", "qkv_bias": True},
        keys={"dense_size": "intermediate_size"},
        rank=8,
    ),
    becomes="qwen2_moe",
)
