"""Which Hugging Face configs this project's model expresses exactly, and which config a model of ours has there.

Both ways hold only if the two models compute the same function; everything else is refused with the key that stands in
the way. No torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lit_recycle.hub.config_keys import NUM_EXPERTS, TOP_K
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.family import Family, Native
from lit_recycle.hub.rope_config import read_rope, rope_obstacle, write_rope
from lit_recycle.model.config import MoEConfig

HFConfig = dict[str, Any]


def expressible() -> list[str]:
    """The families that our model expresses, the preferred ones first."""
    ranks = {name: family.native.rank for name, family in FAMILIES.items() if family.native}
    return sorted(ranks, key=lambda name: ranks[name])


def to_native(config: HFConfig, where: object) -> MoEConfig:
    """The shape of our model that computes what a ``config.json`` describes.

    Raises:
        ValueError: For a config that our model does not express exactly, with the key that is to blame.
    """
    try:
        return _to_native(config, where)
    except KeyError as key:
        raise ValueError(f"{where} has no {key}; fetch it again") from key
    except TypeError as error:
        raise ValueError(f"{where} has a value of a wrong type ({error}); fetch it again") from error


def _to_native(config: HFConfig, where: object) -> MoEConfig:
    model_type = config.get("model_type", "")
    family = FAMILIES.get(model_type)
    if family is None or family.native is None:
        way_out = "; such a folder can still be grown with `lit-recycle grow`" if family else ""
        raise ValueError(
            f"{where}: models of type {model_type!r} cannot be expressed exactly here; importable are "
            f"{', '.join(expressible())}{way_out}"
        )
    native = family.native
    _refuse_what_we_lack(config, native, where)
    heads = config["num_attention_heads"]
    shape: dict[str, Any] = {
        "vocab_size": config["vocab_size"],
        "hidden_size": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": _required(config, "num_key_value_heads", where),
        "head_dim": (config.get("head_dim") if native.head_dim else None) or config["hidden_size"] // heads,
        "norm_eps": _required(config, "rms_norm_eps", where),
        "tie_embeddings": bool(config.get("tie_word_embeddings", False)),
        "init_std": config.get("initializer_range", 0.02),
        **read_rope(config, native),
        **native.fixed,
    }
    if native.qkv_bias:
        shape["qkv_bias"] = bool(config.get(native.qkv_bias, native.qkv_bias != ATTENTION_BIAS))
    if native.qk_norm:
        shape["qk_norm"] = "head" if config.get(native.qk_norm) else "none"
    if family.routing is None:
        layers = range(config["num_hidden_layers"])
        return MoEConfig(**shape, num_experts=0, dense_layers=tuple(layers), dense_size=config["intermediate_size"])
    shape["normalize_top_k"] = family.routing.normalizes(config)
    return MoEConfig(**shape, **_experts(config, family, native))


def _experts(config: HFConfig, family: Family, native: Native) -> dict[str, Any]:
    keys = native.keys
    dense = tuple(i for i in range(config["num_hidden_layers"]) if family.is_dense(config, i))
    shape = {
        "num_experts": _first(config, NUM_EXPERTS),
        "top_k": _first(config, TOP_K),
        "expert_size": config[keys["expert_size"]],
        "dense_layers": dense,
        "dense_size": config[keys["dense_size"]] if dense else 0,
    }
    if "shared_expert_size" in keys:
        shape["shared_expert_size"] = config[keys["shared_expert_size"]]
    if native.shared_count:
        shape["shared_expert_size"] = shape["expert_size"] * config[native.shared_count]
    if "routed_scaling" in keys:
        shape["routed_scaling"] = config.get(keys["routed_scaling"], 1.0)
    return shape


def _first(config: HFConfig, keys: tuple[str, ...]) -> int:
    return next(config[key] for key in keys if config.get(key) is not None)


def _required(config: HFConfig, key: str, where: object) -> Any:
    if config.get(key) is None:
        raise ValueError(f"{where} names no {key}, whose default differs between families: add it")
    return config[key]


def _windowed(config: HFConfig) -> bool:
    if config.get("layer_types"):
        return any(kind != "full_attention" for kind in config["layer_types"])
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return bool(window) and window < config.get("max_position_embeddings", float("inf"))


ATTENTION_BIAS = "attention_bias"
_LACKING: dict[str, Callable[[HFConfig], bool]] = {
    "hidden_act other than silu": lambda c: c.get("hidden_act", "silu") != "silu",
    ATTENTION_BIAS: lambda c: bool(c.get(ATTENTION_BIAS)),
    "mlp_bias": lambda c: bool(c.get("mlp_bias")),
    "clip_qkv": lambda c: c.get("clip_qkv") is not None,
    "a sliding attention window (sliding_window, layer_types)": _windowed,
    "routing limited to groups (n_group)": lambda c: (c.get("n_group") or 1) > 1,
    "quantized weights (quantization_config)": lambda c: "quantization_config" in c,
}


def _refuse_what_we_lack(config: HFConfig, native: Native, where: object) -> None:
    lacking = [what for what, found in _LACKING.items() if found(config) and what != native.qkv_bias]
    for what in [*lacking, *filter(None, [rope_obstacle(config, native)])]:
        quantized = "quantization_config" in config  # which is not grown either
        way_out = "" if quantized else "; the folder can still be grown with `lit-recycle grow`"
        raise ValueError(f"{where} has {what}, which our model does not express exactly{way_out}")


def families_for(config: MoEConfig) -> list[str]:
    """The families that express a model exactly, the preferred one first."""
    return [name for name in expressible() if not _obstacle(config, name)]


def _obstacle(config: MoEConfig, model_type: str) -> str:
    """Why a family does not express a model; empty if it does."""
    family = FAMILIES[model_type]
    native = family.native
    assert native is not None and config.head_dim is not None
    if (family.routing is None) != (config.num_moe_layers == 0):
        return "without dense models" if family.routing else "dense"
    for key, value in native.fixed.items():
        if getattr(config, key) != value:
            return f"{key} {value!r} only"
    if not native.rope_fraction and config.rope_fraction != 1:
        return "rope_fraction 1 only"
    if native.qk_norm and config.qk_norm == "full":
        return "qk_norm 'none' or 'head' only"
    if not native.head_dim and config.head_dim * config.num_heads != config.hidden_size:
        return "head_dim hidden_size / num_heads only"
    if "shared_expert_size" in native.keys and not config.shared_expert_size:
        return "a shared expert"
    if native.shared_count and (not config.shared_expert_size or config.shared_expert_size % config.expert_size):
        return "a shared expert of a multiple of expert_size"
    wanted = [config.is_dense(i) for i in range(config.num_layers)]
    probe: HFConfig = {"num_hidden_layers": config.num_layers}
    family.dense.express(probe, wanted)
    return "" if [family.is_dense(probe, i) for i in range(config.num_layers)] == wanted else "other dense_layers"


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
        reasons = ", ".join(f"{name} ({_obstacle(config, name)})" for name in expressible())
        raise ValueError(f"no Hugging Face family expresses this model exactly: {reasons}")
    if family is not None and family not in fitting:
        reason = f"it has {_obstacle(config, family)}" if family in expressible() else "it is not known"
        raise ValueError(f"{family} does not express this model: {reason}; choose from {', '.join(fitting) or 'none'}")
    return _hf_config(config, family or fitting[0])


def _hf_config(config: MoEConfig, model_type: str) -> HFConfig:
    family = FAMILIES[model_type]
    native = family.native
    assert native is not None and config.head_dim is not None
    values: HFConfig = {
        "architectures": [native.architecture],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        **write_rope(config, native),
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.init_std,
        ATTENTION_BIAS: False,
        "sliding_window": None,
        "use_cache": True,
        **native.extra,
        **{theirs: getattr(config, ours) for ours, theirs in native.keys.items()},
    }
    if native.head_dim:
        values["head_dim"] = config.head_dim
    if native.qkv_bias:
        values[native.qkv_bias] = config.qkv_bias
    if native.qk_norm:
        values[native.qk_norm] = config.qk_norm == "head"
    if config.num_moe_layers:
        values["num_experts_per_tok"] = config.top_k
        if "dense_size" in native.keys:  # transformers wants a number where no layer is dense, too
            values[native.keys["dense_size"]] = config.dense_size or 1
        if native.shared_count:
            values[native.shared_count] = config.shared_expert_size // config.expert_size
        family.dense.express(values, [config.is_dense(i) for i in range(config.num_layers)])
    return values


def read_native(folder: Path, config: HFConfig) -> MoEConfig:
    """As :func:`to_native`, for the config of a folder."""
    return to_native(config, folder / "config.json")
