"""gpt-oss."""

from lit_recycle.hub.blocks import BLOCK, router
from lit_recycle.hub.family import Family, Routing
from lit_recycle.hub.patterns import cycle

AXES = {
    **BLOCK,
    **router("mlp.router.weight"),
    "mlp.router.bias": "E",
    "mlp.experts.gate_up_proj": "E D* (F [gate up])",
    "mlp.experts.gate_up_proj_bias": "E ...",
    "mlp.experts.gate_up_proj_blocks": "E (F [gate up]) ...",
    "mlp.experts.gate_up_proj_scales": "E ...",
    "mlp.experts.down_proj": "down: E F* D+",
    "mlp.experts.down_proj_bias": "E D+",
    "mlp.experts.down_proj_blocks": "down: E D+ ...",
    "mlp.experts.down_proj_scales": "E ...",
}
FAMILY = Family(
    AXES,
    Routing("top-k softmax"),
    patterns={"layer_types": cycle("sliding_attention", "full_attention")},
    note="MXFP4 weights are copied as they are: noise needs a bfloat16 copy",
)
