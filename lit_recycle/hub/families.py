"""Model families of the Hugging Face hub as data: what their tensors are, how they route, which layers are dense.

To add a family, add a row to ``FAMILIES``. Config keys that all families share stand in ``config_json``. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lit_recycle.growth.names import Naming

Axes = dict[str, str]
"""Axis strings by a tensor's suffix after the layer's index; see :mod:`lit_recycle.growth.axes`."""
LAYERS = r"(?:model\.)?layers"
OTHERS: Axes = {"embed_tokens.weight": "V D", "lm_head.weight": "V D*", "norm.weight": "D"}


@dataclass(frozen=True)
class Routing:
    """How a family gets from router logits to the experts of a token and their weights.

    Args:
        kind: ``softmax`` over all experts and then the best; ``top-k softmax`` over the best alone; ``sigmoid`` of
            each; ``sparsemixer``, which always takes two.
        normalize: Whether the weights of the chosen experts are made to sum to one; a config key where it is a choice.
        default: That choice where the config is silent.
        groups: The number of groups and that of groups visited, where experts are chosen from groups.
    """

    kind: Literal["softmax", "top-k softmax", "sigmoid", "sparsemixer"]
    normalize: bool | str = True
    default: bool = False
    groups: tuple[str, str] | None = None

    def normalizes(self, config: Mapping[str, Any]) -> bool:
        if isinstance(self.normalize, bool):
            return self.normalize
        value = config.get(self.normalize)
        return self.default if value is None else bool(value)

    def __str__(self) -> str:
        return self.kind + (", in groups" if self.groups else "")


@dataclass(frozen=True)
class Family:
    """What growth must know of one ``model_type``.

    Args:
        axes: The axes of a layer's tensors. Those that are not named belong to no expert, and are copied with their
            layer.
        routing: None for a family of dense models.
        dense: Which of the rules in ``config_json.DENSE_RULES`` says what layers have no experts.
        sizes: The config key of each axis that may be widened, besides experts; only where all tensors are named.
        layer_cycle: The ``layer_types`` that a config without that list means, repeated over the layers.
        identity: A layer with zeroed outputs leaves the function as it was.
        free_head_dim: The config has a ``head_dim`` that hidden size and heads do not settle.
        note: What a user should know, shown by ``lit-recycle families``.
    """

    axes: Mapping[str, str]
    routing: Routing | None = None
    dense: str = "none"
    sizes: Mapping[str, str] = field(default_factory=dict)
    layer_cycle: tuple[str, ...] = ()
    identity: bool = True
    free_head_dim: bool = True
    note: str = ""
    naming: Naming = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "naming", Naming(LAYERS, self.axes, OTHERS))

    @property
    def has_balance_bias(self) -> bool:
        return any(text.startswith("balance:") for text in self.axes.values())

    @property
    def softmax_bias(self) -> bool:
        """A balancing bias is added to scores that a duplication divides."""
        return self.has_balance_bias and self.routing is not None and self.routing.kind == "softmax"


def _experts(at: str, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj") -> Axes:
    """Routed experts below a module: a tensor per expert as on the hub, or fused as transformers holds them."""
    return {
        f"{at}.experts.{{e}}.{gate}.weight": "gate: F D*",
        f"{at}.experts.{{e}}.{up}.weight": "up: F D*",
        f"{at}.experts.{{e}}.{down}.weight": "down: D+ F*",
        f"{at}.experts.gate_up_proj": "E ([gate up] F) D*",
        f"{at}.experts.down_proj": "down: E D+ F*",
    }


def _router(name: str) -> Axes:
    return {name: "router: E D*"}


def _mlp(at: str, axis: str) -> Axes:
    """A dense network, or a shared expert."""
    return {
        f"{at}.gate_proj.weight": f"gate: {axis} D*",
        f"{at}.up_proj.weight": f"up: {axis} D*",
        f"{at}.down_proj.weight": f"down: D+ {axis}*",
        f"{at}.down_proj.bias": "D+",
    }


_BLOCK: Axes = {
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
_FULL_NORM: Axes = {"self_attn.q_norm.weight": "(H P)", "self_attn.k_norm.weight": "(G P)"}
_DENSE: Axes = _BLOCK | _mlp("mlp", "I")
_MIXTRAL: Axes = {
    **_BLOCK,
    **_router("block_sparse_moe.gate.weight"),
    **_experts("block_sparse_moe", "w1", "w3", "w2"),
    **_router("mlp.gate.weight"),
    **_router("mlp.router.weight"),
    **_experts("mlp", "w1", "w3", "w2"),
}
_QWEN: Axes = {**_DENSE, **_router("mlp.gate.weight"), **_experts("mlp")}
_SHARED: Axes = {**_QWEN, **_mlp("mlp.shared_experts", "S")}
_DEEPSEEK: Axes = {**_SHARED, "mlp.gate.e_score_correction_bias": "balance: E"}
_GRANITE: Axes = {
    **_BLOCK,
    **_router("block_sparse_moe.router.layer.weight"),
    **_router("block_sparse_moe.router.weight"),
    "block_sparse_moe.input_linear.weight": "E ([gate up] F) D*",
    "block_sparse_moe.output_linear.weight": "down: E D+ F*",
    "block_sparse_moe.experts.gate_up_proj": "E ([gate up] F) D*",
    "block_sparse_moe.experts.down_proj": "down: E D+ F*",
    "shared_mlp.input_linear.weight": "([gate up] S) D*",
    "shared_mlp.output_linear.weight": "down: D+ S*",
}
_GPT_OSS: Axes = {
    **_BLOCK,
    **_router("mlp.router.weight"),
    "mlp.router.bias": "E",
    "mlp.experts.gate_up_proj": "E D* (F [gate up])",
    "mlp.experts.gate_up_proj_bias": "E ...",
    "mlp.experts.gate_up_proj_blocks": "E (F [gate up]) ...",
    "mlp.experts.gate_up_proj_scales": "E ...",
    "mlp.experts.down_proj": "down: E F* D+",
    "mlp.experts.down_proj_bias": "E D+",
    "mlp.experts.down_proj_blocks": "down: E D+ ...",
    "mlp.experts.down_proj_scales": "E ...",
}
_GROUPS = ("n_group", "topk_group")
_WIDTHS = {"D": "hidden_size", "H": "num_attention_heads", "G": "num_key_value_heads"}
_DENSE_SIZES = _WIDTHS | {"I": "intermediate_size"}
_MTP = "multi-token-prediction layers stay single"

FAMILIES: dict[str, Family] = {
    "mixtral": Family(_MIXTRAL, Routing("softmax"), sizes=_WIDTHS | {"F": "intermediate_size"}),
    "olmoe": Family(
        _QWEN | _FULL_NORM,
        Routing("softmax", "norm_topk_prob"),
        sizes=_WIDTHS | {"F": "intermediate_size"},
        free_head_dim=False,
    ),
    "qwen2_moe": Family(
        {**_QWEN, **_mlp("mlp.shared_expert", "S"), "mlp.shared_expert_gate.weight": "one D*"},
        Routing("softmax", "norm_topk_prob"),
        "listed",
        sizes=_DENSE_SIZES | {"F": "moe_intermediate_size", "S": "shared_expert_intermediate_size"},
    ),
    "qwen3_moe": Family(
        _QWEN,
        Routing("softmax", "norm_topk_prob"),
        "listed",
        sizes=_DENSE_SIZES | {"F": "moe_intermediate_size"},
    ),
    "deepseek_v2": Family(_SHARED, Routing("softmax", "norm_topk_prob", groups=_GROUPS), "prefix"),
    "deepseek_v3": Family(_DEEPSEEK, Routing("sigmoid", "norm_topk_prob", True, _GROUPS), "prefix", note=_MTP),
    "glm4_moe": Family(_DEEPSEEK, Routing("sigmoid", "norm_topk_prob", True, _GROUPS), "prefix", note=_MTP),
    "dots1": Family(_DEEPSEEK, Routing("sigmoid", "norm_topk_prob", groups=_GROUPS), "prefix"),
    "gpt_oss": Family(
        _GPT_OSS,
        Routing("top-k softmax"),
        layer_cycle=("sliding_attention", "full_attention"),
        note="MXFP4 weights are copied as they are: noise needs a bfloat16 copy",
    ),
    "phimoe": Family(
        _MIXTRAL,
        Routing("sparsemixer"),
        note="its router always takes two experts: width needs --top-k keep and changes the function",
    ),
    "granitemoe": Family(_GRANITE, Routing("top-k softmax")),
    "granitemoeshared": Family(_GRANITE, Routing("top-k softmax")),
    "ernie4_5_moe": Family(
        {
            **_SHARED,
            "mlp.moe_statics.e_score_correction_bias": "balance: one E",
            "mlp.gate.moe_statics.e_score_correction_bias": "balance: one E",
        },
        Routing("softmax"),
        "span",
        note=_MTP,
    ),
    "minimax": Family(
        {**_MIXTRAL, "self_attn.out_proj.weight": "D+ (H P)*"},
        Routing("softmax"),
        layer_cycle=("full_attention", "linear_attention"),
        identity=False,
        note="normalises the residual stream itself, so that zero-output copies are no identities",
    ),
    "minimax_m2": Family(
        {
            **_MIXTRAL,
            "block_sparse_moe.e_score_correction_bias": "balance: E",
            "mlp.e_score_correction_bias": "balance: E",
        },
        Routing("sigmoid"),
        note=_MTP,
    ),
    "hunyuan_v1_moe": Family(
        {**_QWEN, **_router("mlp.gate.wg.weight"), **_mlp("mlp.shared_mlp", "S")}, Routing("softmax")
    ),
    **{
        name: Family(
            _DENSE, dense="all", sizes=_DENSE_SIZES, note="dense: also grows in width, or gets experts (Upcycle)"
        )
        for name in ("llama", "mistral", "qwen2", "qwen3")
    },
    **{
        name: Family(_DENSE, dense="all", note="dense: grows in depth")
        for name in ("ernie4_5", "granite", "hunyuan_v1_dense", "olmo2", "olmo3", "phi3", "seed_oss", "smollm3")
    },
}


def family_of(config: Mapping[str, Any], where: object) -> Family:
    """The family of a ``config.json``.

    Raises:
        ValueError: For a ``model_type`` that is not in ``FAMILIES``.
    """
    model_type = config.get("model_type")
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    raise ValueError(
        f"{where}: model_type {model_type!r} is not known; known are {', '.join(FAMILIES)}. To add one, add a row with "
        "its tensor names and routing to FAMILIES in lit_recycle/hub/families.py"
    )
