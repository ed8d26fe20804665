"""ERNIE 4.5 with experts."""

from lit_recycle.hub.blocks import MTP_NOTE, SHARED
from lit_recycle.hub.dense_layers import Span
from lit_recycle.hub.family import Family, Routing, Upcycled

AXES = {
    **SHARED,
    "mlp.moe_statics.e_score_correction_bias": "balance: one E",
    "mlp.gate.moe_statics.e_score_correction_bias": "balance: one E",
}
FAMILY = Family(
    AXES,
    Routing("softmax"),
    Span(),
    note=MTP_NOTE,
    upcycled=Upcycled(
        "Ernie4_5_MoeForCausalLM",
        "moe_num_experts",
        "moe_intermediate_size",
        "moe_k",
        config={"moe_num_shared_experts": 0},
        refused=("use_bias",),
    ),
)
