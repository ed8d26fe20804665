"""A.X K1."""

from lit_recycle.hub.blocks import BALANCED, GROUPS
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(BALANCED, Routing("sigmoid", "norm_topk_prob", True, GROUPS), Kinds())
