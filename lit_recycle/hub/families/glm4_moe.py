"""GLM-4.5 and 4.6."""

from lit_recycle.hub.families.deepseek_v3 import FAMILY as FAMILY
