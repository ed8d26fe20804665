"""Qwen3, dense."""

from dataclasses import replace

from lit_recycle.hub.families.llama import FAMILY as LLAMA
from lit_recycle.hub.family import Native

FAMILY = replace(
    LLAMA,
    native=Native(
        "Qwen3ForCausalLM",
        {"qk_norm": "head", "qkv_bias": False},
        keys={"dense_size": "intermediate_size"},
        rank=9,
    ),
    becomes="qwen3_moe",
)
