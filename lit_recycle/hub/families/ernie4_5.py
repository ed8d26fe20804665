"""ERNIE 4.5, dense."""

from lit_recycle.hub.blocks import DENSE, DENSE_WIDTHS, UPCYCLE_NOTE
from lit_recycle.hub.dense_layers import AllLayers
from lit_recycle.hub.family import Family

FAMILY = Family(
    DENSE,
    dense=AllLayers(),
    sizes=DENSE_WIDTHS,
    note=UPCYCLE_NOTE,
    becomes="ernie4_5_moe",
    implied={"rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "tie_word_embeddings": True},
)
