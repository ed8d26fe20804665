"""dots3-note, with images and sound."""

from dataclasses import replace

from lit_recycle.hub.families.dots3_note_text import FAMILY as TEXT

FAMILY = replace(TEXT, text_config="text_config")
