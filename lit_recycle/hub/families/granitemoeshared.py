"""Granite 3 MoE with shared experts."""

from lit_recycle.hub.families.granitemoe import FAMILY as FAMILY
