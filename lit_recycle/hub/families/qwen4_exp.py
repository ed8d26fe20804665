"""Qwen4-Exp, with images."""

from dataclasses import replace

from lit_recycle.hub.families.qwen4_exp_text import FAMILY as TEXT

FAMILY = replace(TEXT, text_config="text_config")
