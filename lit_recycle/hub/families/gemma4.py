"""Gemma 4, with images and sound."""

from dataclasses import replace

from lit_recycle.hub.families.gemma4_text import FAMILY as TEXT

FAMILY = replace(TEXT, text_config="text_config")
