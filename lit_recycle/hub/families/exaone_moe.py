"""K-EXAONE."""

from lit_recycle.hub.blocks import BALANCED, GROUPS, MTP_NOTE
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import Family, Routing
from lit_recycle.hub.patterns import every

FAMILY = Family(
    BALANCED | {"mlp.e_score_correction_bias": "balance: E"},
    Routing("sigmoid", "norm_topk_prob", True, GROUPS),
    Kinds(),
    tail=r"mtp\.layers",
    patterns={"layer_types": every()},
    note=MTP_NOTE,
)
