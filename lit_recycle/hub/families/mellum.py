"""Mellum 2."""

from lit_recycle.hub.blocks import EXPERTS, MTP_NOTE
from lit_recycle.hub.dense_layers import Kinds, Prefix
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    EXPERTS,
    Routing("softmax", "norm_topk_prob", True),
    Kinds(prefix=Prefix(default=0)),
    tail=r"mtp\.layers",
    note=MTP_NOTE,
)
