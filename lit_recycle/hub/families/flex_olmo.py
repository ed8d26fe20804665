"""FlexOlmo: OLMo 2 with experts."""

from lit_recycle.hub.blocks import EXPERTS, FULL_NORM, WIDTHS
from lit_recycle.hub.family import Family, Routing, Upcycled

FAMILY = Family(
    EXPERTS | FULL_NORM | {"post_feedforward_layernorm.weight": "D"},
    Routing("softmax", "norm_topk_prob"),
    sizes=WIDTHS | {"F": "intermediate_size"},
    upcycled=Upcycled("FlexOlmoForCausalLM", "num_experts", config={"norm_topk_prob": True}, windows=False),
)
