"""DeepSeek-V3.2."""

from dataclasses import replace

from lit_recycle.hub.dense_layers import Kinds, Prefix
from lit_recycle.hub.families.deepseek_v3 import FAMILY as DEEPSEEK_V3

FAMILY = replace(DEEPSEEK_V3, dense=Kinds(prefix=Prefix(default=3)))
