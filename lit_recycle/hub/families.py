"""Model families of the Hugging Face hub as data: what their tensors are, how they route, which layers are dense.

To add a family, add a row to ``FAMILIES``. Config keys that all families share stand in ``config_json``. No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lit_recycle.growth.names import Naming, Role

Roles = dict[str, Role]
LAYERS = r"(?:model\.)?layers"
OUTPUT = Role(output=True)


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
        roles: Tensor suffixes after the layer's index that are more than plain tensors.
        routing: None for a family of dense models.
        dense: Which of the rules in ``config_json.DENSE_RULES`` says what layers have no experts.
        layer_cycle: The ``layer_types`` that a config without that list means, repeated over the layers.
        identity: A layer with zeroed outputs leaves the function as it was.
        note: What a user should know, shown by ``lit-recycle families``.
    """

    roles: Mapping[str, Role]
    routing: Routing | None = None
    dense: str = "none"
    layer_cycle: tuple[str, ...] = ()
    identity: bool = True
    note: str = ""
    naming: Naming = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "naming", Naming(LAYERS, self.roles))

    @property
    def balance_bias(self) -> bool:
        return any(role.balance for role in self.roles.values())

    @property
    def softmax_bias(self) -> bool:
        """A balancing bias is added to scores that a duplication divides."""
        return self.balance_bias and self.routing is not None and self.routing.kind == "softmax"


def _experts(at: str, gate: str = "gate_proj", up: str = "up_proj", down: str = "down_proj") -> Roles:
    """Routed experts below a module: a tensor per expert as on the hub, or fused as transformers holds them."""
    return {
        f"{at}.experts.{{e}}.{gate}.weight": Role(matrices=("gate",)),
        f"{at}.experts.{{e}}.{up}.weight": Role(matrices=("up",)),
        f"{at}.experts.{{e}}.{down}.weight": Role(matrices=("down",), output=True),
        f"{at}.experts.gate_up_proj": Role(expert_axis=True, matrices=("gate", "up")),
        f"{at}.experts.down_proj": Role(expert_axis=True, matrices=("down",), output=True),
    }


def _router(name: str) -> Roles:
    return {name: Role(expert_axis=True, matrices=("router",))}


def _bias(*names: str) -> Roles:
    return {name: Role(expert_axis=True, balance=True) for name in names}


_ATTENTION: Roles = {"self_attn.o_proj.weight": OUTPUT, "self_attn.o_proj.bias": OUTPUT}
_DENSE: Roles = _ATTENTION | {"mlp.down_proj.weight": OUTPUT, "mlp.down_proj.bias": OUTPUT}
_MIXTRAL: Roles = {
    **_ATTENTION,
    **_router("block_sparse_moe.gate.weight"),
    **_experts("block_sparse_moe", "w1", "w3", "w2"),
    **_router("mlp.gate.weight"),
    **_router("mlp.router.weight"),
    **_experts("mlp", "w1", "w3", "w2"),
}
_QWEN: Roles = {**_DENSE, **_router("mlp.gate.weight"), **_experts("mlp")}
_SHARED: Roles = {**_QWEN, "mlp.shared_experts.down_proj.weight": OUTPUT}
_DEEPSEEK: Roles = {**_SHARED, **_bias("mlp.gate.e_score_correction_bias")}
_GRANITE: Roles = {
    **_ATTENTION,
    **_router("block_sparse_moe.router.layer.weight"),
    **_router("block_sparse_moe.router.weight"),
    "block_sparse_moe.input_linear.weight": Role(expert_axis=True, matrices=("gate", "up")),
    "block_sparse_moe.output_linear.weight": Role(expert_axis=True, matrices=("down",), output=True),
    "block_sparse_moe.experts.gate_up_proj": Role(expert_axis=True, matrices=("gate", "up")),
    "block_sparse_moe.experts.down_proj": Role(expert_axis=True, matrices=("down",), output=True),
    "shared_mlp.output_linear.weight": OUTPUT,
}
_GPT_OSS: Roles = {
    **_ATTENTION,
    **_router("mlp.router.weight"),
    "mlp.router.bias": Role(expert_axis=True),
    "mlp.experts.gate_up_proj": Role(expert_axis=True, matrices=("gate", "up"), interleaved=True),
    "mlp.experts.gate_up_proj_bias": Role(expert_axis=True),
    "mlp.experts.gate_up_proj_blocks": Role(expert_axis=True, matrices=("gate", "up")),
    "mlp.experts.gate_up_proj_scales": Role(expert_axis=True),
    "mlp.experts.down_proj": Role(expert_axis=True, matrices=("down",), output=True),
    "mlp.experts.down_proj_bias": Role(expert_axis=True, output=True),
    "mlp.experts.down_proj_blocks": Role(expert_axis=True, matrices=("down",), output=True),
    "mlp.experts.down_proj_scales": Role(expert_axis=True),
}
_GROUPS = ("n_group", "topk_group")
_MTP = "multi-token-prediction layers stay single"

FAMILIES: dict[str, Family] = {
    "mixtral": Family(_MIXTRAL, Routing("softmax")),
    "olmoe": Family(_QWEN, Routing("softmax", "norm_topk_prob")),
    "qwen2_moe": Family(
        {**_QWEN, "mlp.shared_expert.down_proj.weight": OUTPUT}, Routing("softmax", "norm_topk_prob"), "listed"
    ),
    "qwen3_moe": Family(_QWEN, Routing("softmax", "norm_topk_prob"), "listed"),
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
            **_bias("mlp.moe_statics.e_score_correction_bias", "mlp.gate.moe_statics.e_score_correction_bias"),
        },
        Routing("softmax"),
        "span",
        note=_MTP,
    ),
    "minimax": Family(
        {**_MIXTRAL, "self_attn.out_proj.weight": OUTPUT},
        Routing("softmax"),
        layer_cycle=("full_attention", "linear_attention"),
        identity=False,
        note="normalises the residual stream itself, so that zero-output copies are no identities",
    ),
    "minimax_m2": Family(
        {**_MIXTRAL, **_bias("block_sparse_moe.e_score_correction_bias", "mlp.e_score_correction_bias")},
        Routing("sigmoid"),
        note=_MTP,
    ),
    "hunyuan_v1_moe": Family(
        {**_QWEN, **_router("mlp.gate.wg.weight"), "mlp.shared_mlp.down_proj.weight": OUTPUT}, Routing("softmax")
    ),
    **{
        name: Family(_DENSE, dense="all", note="dense: grows in depth, or becomes a MoE model with --upcycle")
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
