"""Phi-3.5-MoE."""

from lit_recycle.hub.families.mixtral import AXES
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    AXES,
    Routing("sparsemixer"),
    note="its router always takes two experts: width needs --top-k keep and changes the function",
)
