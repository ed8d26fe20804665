"""Keys of a Hugging Face ``config.json`` by meaning, under all names in use, and what they say. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lit_recycle.hub.family import Family

Config = dict[str, Any]

NUM_LAYERS = ("num_hidden_layers",)
NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_K = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_k",
)
KEYS = {"num_layers": NUM_LAYERS, "num_experts": NUM_EXPERTS, "top_k": TOP_K}
NUM_MTP_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules")
UNQUANTIZED = ("modules_to_not_convert", "ignore", "ignored_layers")
"""Keys of a ``quantization_config`` that list modules by name."""
PER_LAYER = (
    "layer_types",
    "layers_block_type",
    "hybrid_override_pattern",
    "hybrid_layer_pattern",
    "mlp_layer_types",
    "attn_type_list",
    "indexer_types",
    "sparse_attention_freq",
    "no_rope_layers",
    "layer_rope_theta",
    "num_attention_heads_per_layer",
    "moe_layer_freq",
    "moe_intermediate_size",
    "num_shared_expert",
    *NUM_EXPERTS,
    *TOP_K,
)
"""Keys that hold one entry per layer where they hold a list, or one letter."""
BY_INDEX = "per_layer_config"
"""A key that holds what single layers have of their own, by index."""


def keys_of(family: Family, what: str) -> tuple[str, ...]:
    """The config keys that may hold a number: ``num_layers``, ``num_experts``, ``top_k``."""
    return (family.keys[what],) if what in family.keys else KEYS[what]


def num_layers(config: Mapping[str, Any], family: Family) -> int:
    for key in keys_of(family, "num_layers"):
        if config.get(key) is not None:
            return int(config[key])
    return next((len(config[key]) for key in PER_LAYER if isinstance(config.get(key), (list, str))), 0)


def num_mtp_layers(config: Mapping[str, Any]) -> int:
    """Multi-token-prediction layers, stored behind the last layer."""
    return next((int(config[key]) for key in NUM_MTP_LAYERS if config.get(key)), 0)


def experts_of_layer(config: Mapping[str, Any], family: Family, layer: int) -> int | None:
    """Routed experts that the config gives to a MoE layer; None where it is silent."""
    for key in keys_of(family, "num_experts"):
        value = config.get(key)
        if value is not None:
            return int(value[layer] if isinstance(value, list) else value)
    return None


def is_grouped(config: Mapping[str, Any], family: Family) -> bool:
    """Whether experts are chosen from groups of neighbours, of which there are several."""
    keys = family.routing.groups if family.routing else None
    return keys is not None and (config.get(keys[0]) or 1) > 1


def first_of(config: Mapping[str, Any], keys: Sequence[str], default: Any) -> Any:
    """The value of the first key that a config has."""
    return next((config[key] for key in keys if config.get(key) is not None), default)


def head_dim(config: Config) -> int:
    """Width of a head, where the config says it, or hidden size and heads do."""
    return int(config.get("head_dim") or config.get("hidden_size", 0) // max(config.get("num_attention_heads", 1), 1))
