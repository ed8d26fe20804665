"""Aria, the language model."""

from lit_recycle.hub.blocks import BLOCK, mlp, router
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    {
        **BLOCK,
        **router("mlp.router.weight"),
        **mlp("mlp.shared_experts", "S"),
        "mlp.experts.fc1.weight": "E D* ([gate up] F)",
        "mlp.experts.fc2.weight": "down: E F* D+",
        "mlp.experts.gate_up_proj": "E D* ([gate up] F)",
        "mlp.experts.down_proj": "down: E F* D+",
    },
    Routing("top-k softmax"),
)
