"""Llama 4, with images."""

from dataclasses import replace

from lit_recycle.hub.families.llama4_text import FAMILY as TEXT

FAMILY = replace(TEXT, text_config="text_config")
