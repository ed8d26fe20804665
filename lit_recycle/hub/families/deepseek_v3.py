"""DeepSeek-V3 and R1."""

from lit_recycle.hub.blocks import BALANCED, GROUPS, MTP_NOTE
from lit_recycle.hub.dense_layers import Prefix
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(BALANCED, Routing("sigmoid", "norm_topk_prob", True, GROUPS), Prefix(), note=MTP_NOTE)
