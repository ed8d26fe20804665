"""FlexOlmo."""

from lit_recycle.hub.blocks import EXPERTS, FULL_NORM
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(EXPERTS | FULL_NORM, Routing("softmax", "norm_topk_prob"))
