"""Aria, with images."""

from dataclasses import replace

from lit_recycle.hub.families.aria_text import FAMILY as TEXT

FAMILY = replace(TEXT, text_config="text_config")
