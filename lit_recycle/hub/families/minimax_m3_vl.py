"""MiniMax-M3, with images."""

from dataclasses import replace

from lit_recycle.hub.families.minimax_m3_vl_text import FAMILY as TEXT

FAMILY = replace(TEXT, text_config="text_config")
