"""Copied layers in a Hugging Face ``config.json``: lists with an entry for each, dense ones, windows. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from lit_recycle.growth.sources import SourceMap
from lit_recycle.hub.config_keys import BY_INDEX, PER_LAYER, Config, keys_of, num_layers
from lit_recycle.hub.family import Family


def grow_layers(grown: Config, config: Config, family: Family, sources: SourceMap, tail: int) -> None:
    """Make a config say what its copied layers are.

    Args:
        grown: A copy of the config, to be changed.
        config: The source's.
        family: Its family.
        sources: The map of all layers, the ``tail`` multi-token-prediction layers at the end among them.
        tail: How many those are.

    Raises:
        ValueError: For layers that the family's config cannot express.
    """
    old_layers, layers = num_layers(config, family), sources.layers[: len(sources.layers) - tail]
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


def _grow_lists(grown: Config, old_layers: int, layers: Sequence[int], mtp: int) -> None:
    """Lists with an entry for each layer, in the config itself or in a part of it."""
    parts = [grown, *(v for v in grown.values() if isinstance(v, dict) and "model_type" not in v)]
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
