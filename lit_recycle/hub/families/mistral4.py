"""Mistral 4, the language model."""

from lit_recycle.hub.blocks import GROUPS, SHARED
from lit_recycle.hub.dense_layers import Prefix
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(SHARED, Routing("softmax", "norm_topk_prob", True, GROUPS), Prefix())
