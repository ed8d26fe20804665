"""Laguna."""

from lit_recycle.hub.blocks import BALANCED, mlp
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    {**BALANCED, **mlp("mlp.shared_expert", "S"), "mlp.experts.e_score_correction_bias": "balance: E"},
    Routing("sigmoid"),
    Kinds(),
)
