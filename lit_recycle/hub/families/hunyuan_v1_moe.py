"""Hunyuan-A13B."""

from lit_recycle.hub.blocks import EXPERTS, mlp, router
from lit_recycle.hub.family import Family, Routing

FAMILY = Family({**EXPERTS, **router("mlp.gate.wg.weight"), **mlp("mlp.shared_mlp", "S")}, Routing("softmax"))
