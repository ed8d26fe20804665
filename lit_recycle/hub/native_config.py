"""Which Hugging Face configs this project's model expresses exactly, and which config a model of ours has there.

Both ways hold only if the two models compute the same function; everything else is refused with the key that stands in
the way. No torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lit_recycle.hub.config_json import DENSE_RULES, NUM_EXPERTS, TOP_K
from lit_recycle.hub.families import FAMILIES
from lit_recycle.model.config import MoEConfig

HFConfig = dict[str, Any]


@dataclass(frozen=True)
class Expression:
    """How a family stands to our model.

    Args:
        architecture: The class that ``transformers`` loads it with.
        fixed: Keys of ``MoEConfig`` that the family has no choice in.
        moe: Where a layer keeps router and experts.
        expert: Names of an expert's gate, up and down matrices.
        qkv_bias: The config key that switches biases on queries, keys and values on; None if it is fixed.
        head_dim: The family's config knows ``head_dim``.
        rope_theta: What a config that names none means.
        extra: Keys that its config must hold besides.
    """

    architecture: str
    fixed: Mapping[str, Any]
    moe: str = "mlp"
    expert: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj")
    qkv_bias: str | None = None
    head_dim: bool = True
    rope_theta: float = 10_000.0
    extra: Mapping[str, Any] = ()  # type: ignore[assignment]


_PLAIN = {"router_score": "softmax", "routed_scaling": 1.0, "balance_bias": False}
_DENSE: dict[str, Any] = {"num_experts": 0}
_NO_SHARED = {"shared_expert_size": 0, "shared_expert_gate": False}

EXPRESSIONS: dict[str, Expression] = {
    "mixtral": Expression(
        "MixtralForCausalLM",
        {**_PLAIN, **_NO_SHARED, "normalize_top_k": True, "qk_norm": "none", "qkv_bias": False},
        "block_sparse_moe",
        ("w1", "w3", "w2"),
        rope_theta=1_000_000.0,
    ),
    "olmoe": Expression(
        "OlmoeForCausalLM", {**_PLAIN, **_NO_SHARED, "qk_norm": "full", "qkv_bias": False}, head_dim=False
    ),
    "qwen3_moe": Expression("Qwen3MoeForCausalLM", {**_PLAIN, **_NO_SHARED, "qk_norm": "head", "qkv_bias": False}),
    "qwen2_moe": Expression(
        "Qwen2MoeForCausalLM", {**_PLAIN, "shared_expert_gate": True, "qk_norm": "none"}, qkv_bias="qkv_bias"
    ),
    "dots1": Expression(
        "Dots1ForCausalLM",
        {
            "router_score": "sigmoid",
            "balance_bias": True,
            "shared_expert_gate": False,
            "qk_norm": "head",
            "qkv_bias": False,
        },
        extra={"n_group": 1, "topk_group": 1},
    ),
    "llama": Expression("LlamaForCausalLM", _DENSE | {"qk_norm": "none", "qkv_bias": False}),
    "mistral": Expression("MistralForCausalLM", _DENSE | {"qk_norm": "none", "qkv_bias": False}),
    "qwen2": Expression("Qwen2ForCausalLM", _DENSE | {"qk_norm": "none", "qkv_bias": True}),
    "qwen3": Expression("Qwen3ForCausalLM", _DENSE | {"qk_norm": "head", "qkv_bias": False}),
}
"""Where several families express a model, the first one is written."""


def is_dense_family(family: str) -> bool:
    return FAMILIES[family].routing is None


def to_native(config: HFConfig, where: object) -> MoEConfig:
    """The shape of our model that computes what a ``config.json`` describes.

    Raises:
        ValueError: For a config that our model does not express exactly, with the key that is to blame.
    """
    family = config.get("model_type", "")
    if family not in EXPRESSIONS:
        way_out = "; such a folder can still be grown with `lit-recycle grow`" if family in FAMILIES else ""
        raise ValueError(
            f"{where}: models of type {family!r} cannot be expressed exactly here; importable are "
            f"{', '.join(EXPRESSIONS)}{way_out}"
        )
    _refuse_what_we_lack(config, where)
    expression, routing = EXPRESSIONS[family], FAMILIES[family].routing
    heads = config["num_attention_heads"]
    shape: dict[str, Any] = {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": _required(config, "num_key_value_heads", where),
        "head_dim": (config.get("head_dim") if expression.head_dim else None) or config["hidden_size"] // heads,
        "norm_eps": _required(config, "rms_norm_eps", where),
        "tie_embeddings": bool(config.get("tie_word_embeddings", False)),
        "rope_theta": float(_rope(config).get("rope_theta", config.get("rope_theta", expression.rope_theta))),
        "init_std": config.get("initializer_range", 0.02),
        **{key: value for key, value in expression.fixed.items() if key != "num_experts"},
    }
    if expression.qkv_bias:
        shape["qkv_bias"] = bool(config.get(expression.qkv_bias, True))
    if routing is None:
        layers = range(config["num_hidden_layers"])
        return MoEConfig(**shape, num_experts=0, dense_layers=tuple(layers), dense_size=config["intermediate_size"])
    shape["normalize_top_k"] = routing.normalizes(config)
    return MoEConfig(**shape, **_experts(config, family))


def _experts(config: HFConfig, family: str) -> dict[str, Any]:
    is_dense = DENSE_RULES[FAMILIES[family].dense][0]
    dense = tuple(i for i in range(config["num_hidden_layers"]) if is_dense(config, i))
    size = config.get("moe_intermediate_size") or config["intermediate_size"]
    shape = {
        "num_experts": _first(config, NUM_EXPERTS),
        "top_k": _first(config, TOP_K),
        "expert_size": size,
        "dense_layers": dense,
        "dense_size": config["intermediate_size"] if dense else 0,
    }
    if family == "qwen2_moe":
        shape["shared_expert_size"] = config["shared_expert_intermediate_size"]
    if family == "dots1":
        shape |= {
            "shared_expert_size": size * config["n_shared_experts"],
            "routed_scaling": config.get("routed_scaling_factor", 1.0),
        }
    return shape


def _first(config: HFConfig, keys: tuple[str, ...]) -> int:
    return next(config[key] for key in keys if config.get(key) is not None)


def _rope(config: HFConfig) -> Mapping[str, Any]:
    return config.get("rope_parameters") or {}


def _required(config: HFConfig, key: str, where: object) -> Any:
    if config.get(key) is None:
        raise ValueError(f"{where} names no {key}, whose default differs between families: add it")
    return config[key]


def _windowed(config: HFConfig) -> bool:
    if config.get("layer_types"):
        return any(kind != "full_attention" for kind in config["layer_types"])
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return bool(window) and window < config.get("max_position_embeddings", float("inf"))


_LACKING: dict[str, Callable[[HFConfig], bool]] = {
    "hidden_act other than silu": lambda c: c.get("hidden_act", "silu") != "silu",
    "scaled or partial rotary positions (rope_parameters, rope_scaling)": lambda c: (
        _rope(c).get("rope_type", "default") != "default"
        or bool(c.get("rope_scaling"))
        or _rope(c).get("partial_rotary_factor", 1) != 1
    ),
    "attention_bias": lambda c: bool(c.get("attention_bias")),
    "mlp_bias": lambda c: bool(c.get("mlp_bias")),
    "clip_qkv": lambda c: c.get("clip_qkv") is not None,
    "a sliding attention window (sliding_window, layer_types)": _windowed,
    "routing limited to groups (n_group)": lambda c: (c.get("n_group") or 1) > 1,
    "quantized weights (quantization_config)": lambda c: "quantization_config" in c,
}


def _refuse_what_we_lack(config: HFConfig, where: object) -> None:
    for what, found in _LACKING.items():
        if found(config):
            quantized = "quantization_config" in config  # which is not grown either
            way_out = "" if quantized else "; the folder can still be grown with `lit-recycle grow`"
            raise ValueError(f"{where} has {what}, which our model does not express exactly{way_out}")


def families_for(config: MoEConfig) -> list[str]:
    """The families that express a model exactly, the preferred one first."""
    return [name for name in EXPRESSIONS if not _obstacle(config, name)]


def _obstacle(config: MoEConfig, family: str) -> str:
    """Why a family does not express a model; empty if it does."""
    if is_dense_family(family) != (config.num_moe_layers == 0):
        return "dense" if is_dense_family(family) else "without dense models"
    for key, value in EXPRESSIONS[family].fixed.items():
        routed = key in MoEConfig.__dataclass_fields__ and key not in ("qk_norm", "qkv_bias", "num_experts")
        if key == "num_experts" or (routed and config.num_moe_layers == 0):
            continue
        if getattr(config, key) != value:
            return f"{key} {value!r} only"
    assert config.head_dim is not None
    if not EXPRESSIONS[family].head_dim and config.head_dim * config.num_heads != config.hidden_size:
        return "head_dim hidden_size / num_heads only"
    if family == "qwen2_moe" and not config.shared_expert_size:
        return "a shared expert"
    if family == "dots1" and (not config.shared_expert_size or config.shared_expert_size % config.expert_size):
        return "a shared expert of a multiple of expert_size"
    return _dense_obstacle(config, family)


def _dense_obstacle(config: MoEConfig, family: str) -> str:
    wanted = [config.is_dense(i) for i in range(config.num_layers)]
    probe: HFConfig = {"num_hidden_layers": config.num_layers}
    is_dense, express = DENSE_RULES[FAMILIES[family].dense]
    express(probe, wanted)
    return "" if [is_dense(probe, i) for i in range(config.num_layers)] == wanted else "other dense_layers"


def to_hf(config: MoEConfig, family: str | None = None) -> HFConfig:
    """The ``config.json`` of a model of ours.

    Args:
        config: Its shape.
        family: The ``model_type`` to write; the first of :func:`families_for` when not given.

    Raises:
        ValueError: If the family, or every family, cannot express the model.
    """
    fitting = families_for(config)
    if family is None and not fitting:
        reasons = ", ".join(f"{name} ({_obstacle(config, name)})" for name in EXPRESSIONS)
        raise ValueError(f"no Hugging Face family expresses this model exactly: {reasons}")
    if family is not None and family not in fitting:
        reason = f"it has {_obstacle(config, family)}" if family in EXPRESSIONS else "it is not known"
        raise ValueError(f"{family} does not express this model: {reason}; choose from {', '.join(fitting) or 'none'}")
    return _hf_config(config, family or fitting[0])


def _hf_config(config: MoEConfig, family: str) -> HFConfig:
    expression = EXPRESSIONS[family]
    assert config.head_dim is not None
    values: HFConfig = {
        "architectures": [expression.architecture],
        "model_type": family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        # Both spellings: transformers reads the first since version 5, older clients the second.
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        "attention_bias": False,
        "sliding_window": None,
        "use_cache": True,
        **dict(expression.extra),
    }
    if expression.head_dim:
        values["head_dim"] = config.head_dim
    if expression.qkv_bias:
        values[expression.qkv_bias] = config.qkv_bias
    return values | (_hf_experts(config, family) if config.num_moe_layers else {"intermediate_size": config.dense_size})


def _hf_experts(config: MoEConfig, family: str) -> HFConfig:
    values: HFConfig = {"num_experts_per_tok": config.top_k}
    if family in ("mixtral", "olmoe"):
        values["intermediate_size"] = config.expert_size
    else:
        values |= {"moe_intermediate_size": config.expert_size, "intermediate_size": config.dense_size or 1}
    key = {"mixtral": "num_local_experts", "dots1": "n_routed_experts"}.get(family, "num_experts")
    values[key] = config.num_experts
    if family != "mixtral":
        values["norm_topk_prob"] = config.normalize_top_k
    if family == "qwen2_moe":
        values["shared_expert_intermediate_size"] = config.shared_expert_size
    if family == "dots1":
        values |= {
            "n_shared_experts": config.shared_expert_size // config.expert_size,
            "routed_scaling_factor": config.routed_scaling,
        }
    DENSE_RULES[FAMILIES[family].dense][1](values, [config.is_dense(i) for i in range(config.num_layers)])
    return values


def read_native(folder: Path, config: HFConfig) -> MoEConfig:
    """As :func:`to_native`, for the config of a folder."""
    return to_native(config, folder / "config.json")
