"""Qwen3.5 and 3.6 with experts and images."""

from dataclasses import replace

from lit_recycle.hub.families.qwen3_5_moe_text import FAMILY as TEXT

FAMILY = replace(TEXT, text_config="text_config")
