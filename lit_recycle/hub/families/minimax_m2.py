"""MiniMax-M2."""

from lit_recycle.hub.blocks import MTP_NOTE
from lit_recycle.hub.families.mixtral import AXES
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    {
        **AXES,
        "block_sparse_moe.e_score_correction_bias": "balance: E",
        "mlp.e_score_correction_bias": "balance: E",
    },
    Routing("sigmoid"),
    note=MTP_NOTE,
)
