"""Kimi K2."""

from lit_recycle.hub.families.deepseek_v3 import FAMILY as FAMILY
