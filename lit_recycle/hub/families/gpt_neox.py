"""GPT-NeoX and Pythia, dense."""

from lit_recycle.hub.blocks import DENSE_NOTE
from lit_recycle.hub.dense_layers import AllLayers
from lit_recycle.hub.family import Family

FAMILY = Family(
    {
        "input_layernorm.weight": "D",
        "input_layernorm.bias": "D",
        "post_attention_layernorm.weight": "D",
        "post_attention_layernorm.bias": "D",
        "attention.query_key_value.weight": "(H qkv P) D*",
        "attention.query_key_value.bias": "(H qkv P)",
        "attention.dense.weight": "D+ (H P)*",
        "attention.dense.bias": "D+",
        "mlp.dense_h_to_4h.weight": "up: I D*",
        "mlp.dense_h_to_4h.bias": "I",
        "mlp.dense_4h_to_h.weight": "down: D+ I*",
        "mlp.dense_4h_to_h.bias": "D+",
    },
    dense=AllLayers(),
    layers=r"gpt_neox\.layers",
    others={
        "gpt_neox.embed_in.weight": "V D",
        "gpt_neox.final_layer_norm.weight": "D",
        "gpt_neox.final_layer_norm.bias": "D",
        "embed_out.weight": "V D*",
        "lm_head.weight": "V D*",
    },
    note=DENSE_NOTE,
)
