"""Ling 3 and Ring 3: linear and latent attention."""

from lit_recycle.hub.blocks import BALANCED, MTP_NOTE, linear_attention
from lit_recycle.hub.dense_layers import Kinds, Prefix
from lit_recycle.hub.family import Family, Routing
from lit_recycle.hub.patterns import every

ATTENTION = [
    *("q_proj", "k_proj", "v_proj", "b_proj", "g_proj", "o_norm"),
    *("kv_a_layernorm", "kv_a_proj_with_mqa", "kv_b_proj"),
]
FAMILY = Family(
    {
        **BALANCED,
        "mlp.gate.expert_bias": "balance: E",
        **linear_attention("attention", "self_attn"),
        "attention.f_proj.weight": "forget: ...",
        "self_attn.forget_gate.f_proj.weight": "forget: ...",
        "attention.dense.weight": "out: D+ (H P)*",
        "self_attn.o_proj.weight": "out: D+ (H P)*",
        **{f"{at}.{name}.weight": f"attention_{name}: ..." for at in ("attention", "self_attn") for name in ATTENTION},
    },
    Routing("sigmoid", "moe_renormalize", True, ("num_expert_group", "topk_group")),
    Kinds(prefix=Prefix(default=2)),
    others={
        "embed_tokens.weight": "embedding: V D",
        "word_embeddings.weight": "embedding: V D",
        "lm_head.weight": "V D*",
        "norm.weight": "D",
    },
    patterns={"layer_types": every("layer_group_size", 6, others="linear_attention")},
    note=MTP_NOTE,
)
