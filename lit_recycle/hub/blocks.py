"""Axis strings and config keys that many model families share: attention, networks, experts. No torch.

Axis strings are explained in :mod:`lit_recycle.growth.axes`.
"""

from __future__ import annotations

Axes = dict[str, str]
"""Axis strings by a tensor's suffix after the layer's index; ``{e}`` stands for an expert's index."""


def experts(at: str, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj") -> Axes:
    """Routed experts below a module: a tensor per expert as on the hub, or fused as transformers holds them."""
    return {
        f"{at}.experts.{{e}}.{gate}.weight": "gate: F D*",
        f"{at}.experts.{{e}}.{up}.weight": "up: F D*",
        f"{at}.experts.{{e}}.{down}.weight": "down: D+ F*",
        f"{at}.experts.gate_up_proj": "E ([gate up] F) D*",
        f"{at}.experts.down_proj": "down: E D+ F*",
    }


def router(name: str) -> Axes:
    return {name: "router: E D*"}


def mlp(at: str, axis: str) -> Axes:
    """A dense network (axis ``I``), or a shared expert (``S``)."""
    return {
        f"{at}.gate_proj.weight": f"gate: {axis} D*",
        f"{at}.up_proj.weight": f"up: {axis} D*",
        f"{at}.down_proj.weight": f"down: D+ {axis}*",
        f"{at}.down_proj.bias": "D+",
    }


def linear_attention(hub: str, memory: str) -> Axes:
    """Convolutions and decay of Kimi's linear attention, as on the hub and as transformers holds them."""
    return {
        **{f"{hub}.{name}_conv1d.weight": f"conv_{name}: channels one kernel" for name in "qkv"},
        f"{memory}.conv1d.weight": "([conv_q conv_k conv_v] channels) one kernel",
        f"{hub}.A_log": "decay: ...",
        f"{hub}.dt_bias": "decay_bias: ...",
        f"{memory}.forget_gate.A_log": "decay: ...",
        f"{memory}.forget_gate.dt_bias": "decay_bias: ...",
    }


BLOCK: Axes = {
    "input_layernorm.weight": "D",
    "post_attention_layernorm.weight": "D",
    "self_attn.q_proj.weight": "(H P) D*",
    "self_attn.k_proj.weight": "(G P) D*",
    "self_attn.v_proj.weight": "(G P) D*",
    "self_attn.q_proj.bias": "(H P)",
    "self_attn.k_proj.bias": "(G P)",
    "self_attn.v_proj.bias": "(G P)",
    "self_attn.q_norm.weight": "P",
    "self_attn.k_norm.weight": "P",
    "self_attn.o_proj.weight": "D+ (H P)*",
    "self_attn.o_proj.bias": "D+",
}
"""Norms and attention of a layer."""
FULL_NORM: Axes = {"self_attn.q_norm.weight": "(H P)", "self_attn.k_norm.weight": "(G P)"}
"""Queries and keys that are normalised over all heads together."""
DENSE: Axes = BLOCK | mlp("mlp", "I")
"""A layer with a dense network."""
EXPERTS: Axes = {**DENSE, **router("mlp.gate.weight"), **experts("mlp")}
"""A layer with either a dense network or experts, named as Qwen does."""
SHARED: Axes = {**EXPERTS, **mlp("mlp.shared_experts", "S")}
"""Shared experts besides, named as DeepSeek does."""
BALANCED: Axes = {**SHARED, "mlp.gate.e_score_correction_bias": "balance: E"}
"""With a balancing bias."""

WIDTHS = {"D": "hidden_size", "H": "num_attention_heads", "G": "num_key_value_heads"}
DENSE_WIDTHS = WIDTHS | {"I": "intermediate_size"}
GROUPS = ("n_group", "topk_group")
MTP_NOTE = "multi-token-prediction layers stay single"
DENSE_NOTE = "dense: grows in depth"
UPCYCLE_NOTE = "dense: also grows in width, or gets experts (Upcycle)"
