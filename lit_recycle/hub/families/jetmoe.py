"""JetMoe: experts in attention too."""

from lit_recycle.hub.blocks import router
from lit_recycle.hub.family import Family, Routing

FAMILY = Family(
    {
        **router("mlp.router.layer.weight"),
        "mlp.input_linear.weight": "E ([gate up] F) D*",
        "mlp.output_linear.weight": "down: E D+ F*",
        "mlp.bias": "D+",
        "self_attention.experts.router.layer.weight": "attention_router: E D*",
        "self_attention.experts.input_linear.weight": "up: E heads D*",
        "self_attention.experts.output_linear.weight": "down: E D+ heads*",
        "self_attention.experts.bias": "D+",
    },
    Routing("top-k softmax"),
)
