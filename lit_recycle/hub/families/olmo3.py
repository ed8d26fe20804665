"""OLMo 3, dense."""

from dataclasses import replace

from lit_recycle.hub.families.olmo2 import FAMILY as OLMO2
from lit_recycle.hub.patterns import every

FAMILY = replace(
    OLMO2,
    patterns={"layer_types": every()},
    note="dense: also grows in width; gets experts (Upcycle) where no layer sees a sliding window",
    implied={**OLMO2.implied, "rope_theta": 500_000.0},
)
