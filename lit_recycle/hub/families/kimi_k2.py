"""Kimi K2."""

from dataclasses import replace

from lit_recycle.hub.families.deepseek_v3 import FAMILY as DEEPSEEK_V3

FAMILY = replace(DEEPSEEK_V3, code="deepseek_v3")
