"""Granite 3 MoE."""

from lit_recycle.hub.blocks import BLOCK, WIDTHS, router
from lit_recycle.hub.family import Family, Routing, Upcycled

AXES = {
    **BLOCK,
    **router("block_sparse_moe.router.layer.weight"),
    **router("block_sparse_moe.router.weight"),
    "block_sparse_moe.input_linear.weight": "E ([gate up] F) D*",
    "block_sparse_moe.output_linear.weight": "down: E D+ F*",
    "block_sparse_moe.experts.gate_up_proj": "E ([gate up] F) D*",
    "block_sparse_moe.experts.down_proj": "down: E D+ F*",
    "shared_mlp.input_linear.weight": "([gate up] S) D*",
    "shared_mlp.output_linear.weight": "down: D+ S*",
}
FAMILY = Family(
    AXES,
    Routing("top-k softmax"),
    sizes=WIDTHS | {"F": "intermediate_size"},
    upcycled=Upcycled("GraniteMoeForCausalLM", "num_local_experts"),
)
