"""MiniMax-Text-01 and M1."""

from lit_recycle.hub.families.mixtral import AXES
from lit_recycle.hub.family import Family, Routing
from lit_recycle.hub.patterns import cycle

FAMILY = Family(
    {**AXES, "self_attn.out_proj.weight": "D+ (H P)*"},
    Routing("softmax"),
    patterns={"layer_types": cycle("full_attention", "linear_attention")},
    identity=False,
    note="normalises the residual stream itself, so that zero-output copies are no identities",
)
