"""Hunyuan 3."""

from lit_recycle.hub.blocks import SHARED, mlp, router
from lit_recycle.hub.dense_layers import Kinds
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    {
        **SHARED,
        **mlp("mlp.shared_mlp", "S"),
        **router("mlp.router.gate.weight"),
        "mlp.expert_bias": "balance: E",
        "mlp.e_score_correction_bias": "balance: E",
    },
    Routing("sigmoid"),
    Kinds(),
)
