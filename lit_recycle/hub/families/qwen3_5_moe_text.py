"""Qwen3.5 and 3.6 with experts, the language model."""

from dataclasses import replace

from lit_recycle.hub.families.qwen3_next import FAMILY as QWEN3_NEXT
from lit_recycle.hub.family import Routing

FAMILY = replace(QWEN3_NEXT, routing=Routing("softmax"))
