"""A.X K2."""

from lit_recycle.hub.families.axk1 import FAMILY as FAMILY
