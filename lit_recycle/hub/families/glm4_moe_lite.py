"""GLM-4.7 Flash."""

from dataclasses import replace

from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.families.deepseek_v3 import FAMILY as DEEPSEEK_V3

FAMILY = replace(DEEPSEEK_V3, dense=Kinds())
