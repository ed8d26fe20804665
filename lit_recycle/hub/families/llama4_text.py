"""Llama 4, the language model."""

from lit_recycle.hub.blocks import BLOCK, mlp, router
from lit_recycle.hub.dense_layers import Indexed
from lit_recycle.hub.family import Family, Routing
from lit_recycle.hub.patterns import every

FAMILY = Family(
    {
        **BLOCK,
        **mlp("feed_forward", "I"),
        **router("feed_forward.router.weight"),
        **mlp("feed_forward.shared_expert", "S"),
        "feed_forward.experts.gate_up_proj": "E D* ([gate up] F)",
        "feed_forward.experts.down_proj": "down: E F* D+",
    },
    Routing("sigmoid", False, scaling=None, logits=1),
    Indexed(),
    patterns={"no_rope_layers": every("no_rope_layer_interval", kind=0, others=1)},
)
