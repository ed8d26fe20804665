"""What a growth does to a Hugging Face ``config.json``. Keys are matched by meaning, under all names in use. No torch.

Tried against all families of ``families/``; keys that a config does not have are not added.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.sources import AXIS_NAMES, AxisMap, SourceMap
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


def grown_config(
    config: Config, family: Family, sources: SourceMap, tail: int, before: Sequence[int], after: Sequence[int]
) -> Config:
    """The config of the grown model, experts per token aside.

    Args:
        config: The source's.
        family: Its family.
        sources: The map of all layers, the ``tail`` multi-token-prediction layers at the end among them.
        tail: How many those are.
        before: Routed experts of each layer of the source.
        after: Routed experts of each grown layer.

    Raises:
        ValueError: For a pattern of dense layers, attention windows or sizes that the family's config cannot express.
    """
    old_layers, layers = num_layers(config, family), sources.layers[: len(sources.layers) - tail]
    grown = deepcopy(config)
    if sources.changes_layers:
        _check_depth(config, family)
        for key in keys_of(family, "num_layers"):
            if key in grown:
                grown[key] = len(layers)
        _grow_lists(grown, old_layers, sources.layers, tail)
        _grow_indices(grown, family, layers)
    if layers != tuple(range(old_layers)):
        _grow_patterns(grown, config, family, layers)
        _grow_window_layers(grown, config, layers)
        _grow_dense_layers(grown, config, family, layers)
    for axis in sources.axes:
        if axis == EXPERTS:
            _grow_experts(grown, family, [before[i] for i in sources.layers], after)
        else:
            _widen(grown, family, axis, sources)
    return grown


def _grow_lists(grown: Config, old_layers: int, layers: Sequence[int], mtp: int) -> None:
    """Lists with an entry for each layer, in the config itself or in a part of it."""
    parts = [grown, *(value for value in grown.values() if isinstance(value, dict))]
    for part, key in ((part, key) for part in parts for key in PER_LAYER):
        values = part.get(key)
        if not isinstance(values, (list, str)):
            continue
        if len(values) not in (old_layers, old_layers + mtp):
            raise ValueError(f"config.json: {key} has {len(values)} entries for {old_layers} layers; correct it first")
        kept = [values[i] for i in layers if i < len(values)]
        part[key] = "".join(kept) if isinstance(values, str) else kept
    if grown.get(BY_INDEX):
        old = {int(layer): values for layer, values in grown[BY_INDEX].items()}
        grown[BY_INDEX] = {str(j): old[i] for j, i in enumerate(layers) if i in old}


def _check_depth(config: Config, family: Family) -> None:
    for key, why in family.no_depth.items():
        if config.get(key):
            raise ValueError(f"config.json sets {key}: {why}, so the layers of this model cannot be copied")


def _grow_indices(grown: Config, family: Family, layers: Sequence[int]) -> None:
    for path, first in family.indices.items():
        *parents, key = path.split(".")
        holder = grown
        for parent in parents:
            holder = holder.get(parent) or {}
        if holder.get(key) is not None:
            old = {i - first for i in holder[key]}
            holder[key] = [j + first for j, i in enumerate(layers) if i in old]


def _grow_patterns(grown: Config, config: Config, family: Family, layers: Sequence[int]) -> None:
    """Lists with an entry for each layer that the config leaves to a pattern."""
    for key, pattern in family.patterns.items():
        if config.get(key) is not None or "attn_type_list" in config:
            continue
        entries = pattern(config, num_layers(config, family))
        wanted = [entries[i] for i in layers]
        if not family.fixed_patterns:
            grown[key] = wanted
        elif list(pattern(grown, len(layers))) != wanted:
            raise ValueError(
                f"config.json of a {config['model_type']} model cannot express {key} {', '.join(wanted)}: copy whole "
                "periods of layers, as --method stack does"
            )


def _grow_window_layers(grown: Config, config: Config, sources: Sequence[int]) -> None:
    """``max_window_layers``: the layers from there on see a sliding window, unless ``layer_types`` says otherwise."""
    first = config.get("max_window_layers")
    if first is None:
        return
    below = [source < first for source in sources]
    grown["max_window_layers"] = count = sum(below)
    active = config.get("sliding_window") and config.get("use_sliding_window", True) and not config.get("layer_types")
    if active and not all(below[:count]):
        raise ValueError(
            "config.json: max_window_layers cannot express which of the grown layers see a sliding window; add the "
            "list layer_types to the source's config.json (loading and saving it with transformers does)"
        )


def _grow_dense_layers(grown: Config, config: Config, family: Family, sources: Sequence[int]) -> None:
    wanted = [family.is_dense(config, source) for source in sources]
    family.dense.express(grown, wanted)
    if [family.is_dense(grown, i) for i in range(len(wanted))] != wanted:
        raise ValueError(
            f"config.json of a {config['model_type']} model cannot express dense layers at "
            f"{[i for i, dense in enumerate(wanted) if dense]} of {len(wanted)}: use interposition, or --layers "
            "with all dense layers where the family wants them"
        )


def _grow_experts(grown: Config, family: Family, before: Sequence[int], after: Sequence[int]) -> None:
    """Numbers of experts: one for all layers, or one for each where the config has a list."""
    layers = num_layers(grown, family)
    changes = {(old, new) for old, new in zip(before, after, strict=True) if new}
    for key in keys_of(family, "num_experts"):
        value = grown.get(key)
        if isinstance(value, list):
            grown[key] = [after[j] or n for j, n in enumerate(value)]
        elif value is not None:
            if len({new for _, new in changes}) > 1:
                raise ValueError(f"config.json has one {key} for all {layers} layers, and they would have {changes}")
            grown[key] = next(new for _, new in changes)
    if is_grouped(grown, family):
        assert family.routing is not None and family.routing.groups is not None
        old, new = next(iter(changes))
        key = family.routing.groups[0]
        grown[key] = grown[key] * new // old


def _widen(grown: Config, family: Family, axis: str, sources: SourceMap) -> None:
    """The size of another axis."""
    if axis not in family.sizes:
        raise ValueError(
            f"{AXIS_NAMES.get(axis, axis)} of a {grown['model_type']} folder cannot grow: not all tensors that have "
            "them are known by name; add their axes and sizes to the family"
        )
    maps = sources.axes[axis]
    sizes = {len(m.sources) for m in ((maps,) if isinstance(maps, AxisMap) else maps) if m is not None}
    if len(sizes) > 1:
        raise ValueError(
            f"config.json has one {family.sizes[axis]} for all layers, and they would have {sorted(sizes)}"
        )
    head_dim = grown.get("head_dim") or grown["hidden_size"] // grown["num_attention_heads"]
    if axis == "H" and grown.get("num_key_value_heads") is None:
        grown["num_key_value_heads"] = grown["num_attention_heads"]
    grown[family.sizes[axis]] = sizes.pop()
    if axis in ("D", "H") and family.free_head_dim:
        grown["head_dim"] = head_dim


def check_heads(config: Config, family: Family, head_dim: int) -> None:
    """Raises ``ValueError`` for a config whose hidden size and heads say another size of a head than the weights."""
    if not family.free_head_dim and config["hidden_size"] != head_dim * config["num_attention_heads"]:
        raise ValueError(
            f"the config of a {config['model_type']} model has no head_dim: hidden size and heads grow together there "
            "(WidenHidden and WidenHeads with the same factor)"
        )
