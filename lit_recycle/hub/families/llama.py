"""Llama, dense."""

from lit_recycle.hub.blocks import DENSE, DENSE_WIDTHS, UPCYCLE_NOTE
from lit_recycle.hub.dense_layers import AllLayers
from lit_recycle.hub.family import Family, Native

FAMILY = Family(
    DENSE,
    dense=AllLayers(),
    sizes=DENSE_WIDTHS,
    note=UPCYCLE_NOTE,
    native=Native(
        "LlamaForCausalLM",
        {"qk_norm": "none", "qkv_bias": False},
        keys={"dense_size": "intermediate_size"},
        rank=6,
    ),
    becomes="mixtral",
)
