"""What a growth does to a Hugging Face ``config.json``. Keys are matched by meaning, under all names in use. No torch.

Tried against the families of ``families.py``; keys that a config does not have are not added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from lit_recycle.growth.event import Width
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.hub.families import Family

Config = dict[str, Any]

NUM_LAYERS = "num_hidden_layers"
NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
TOP_K = ("num_experts_per_tok", "experts_per_token", "moe_topk", "moe_k")
NUM_MTP_LAYERS = ("num_nextn_predict_layers", "num_mtp_layers", "num_mtp_modules")
SCALING = "routed_scaling_factor"
UNQUANTIZED = ("modules_to_not_convert", "ignore", "ignored_layers")
"""Keys of a ``quantization_config`` that list modules by name."""
PER_LAYER = (
    "layer_types",
    "mlp_layer_types",
    "attn_type_list",
    "no_rope_layers",
    "moe_layer_freq",
    "moe_intermediate_size",
    "num_shared_expert",
    *NUM_EXPERTS,
    *TOP_K,
)
"""Keys that hold one entry per layer where they hold a list."""


def num_layers(config: Mapping[str, Any]) -> int:
    return int(config[NUM_LAYERS])


def num_mtp_layers(config: Mapping[str, Any]) -> int:
    """Multi-token-prediction layers, stored behind the last layer."""
    return next((int(config[key]) for key in NUM_MTP_LAYERS if config.get(key)), 0)


def experts_of_layer(config: Mapping[str, Any], layer: int) -> int | None:
    """Routed experts that the config gives to a MoE layer; None where it is silent."""
    for key in NUM_EXPERTS:
        value = config.get(key)
        if value is not None:
            return int(value[layer] if isinstance(value, list) else value)
    return None


def is_grouped(config: Mapping[str, Any], family: Family) -> bool:
    """Whether experts are chosen from groups of neighbours, of which there are several."""
    keys = family.routing.groups if family.routing else None
    return bool(keys) and (config.get(keys[0]) or 1) > 1


def grow_config_json(config: Config, family: Family, plan: GrowthPlan, mtp: int, width: Width | None) -> Config:
    """The config of the grown model.

    Args:
        config: The source's.
        family: Its family.
        plan: The source map of all layers, the ``mtp`` multi-token-prediction layers at the end among them.
        mtp: How many those are.
        width: Growth in width, if any.

    Raises:
        ValueError: For a pattern of dense layers or attention windows that the family's config cannot express.
    """
    old_layers, sources = num_layers(config), plan.layers[: len(plan.layers) - mtp]
    grown = deepcopy(config)
    grown[NUM_LAYERS] = len(sources)
    _grow_lists(grown, old_layers, plan.layers, mtp)
    _grow_module_names(grown.get("quantization_config") or {}, family, plan)
    if sources != tuple(range(old_layers)):
        if family.layer_cycle and grown.get("layer_types") is None and "attn_type_list" not in grown:
            grown["layer_types"] = [family.layer_cycle[i % len(family.layer_cycle)] for i in sources]
        _grow_window_layers(grown, config, sources)
        _grow_dense_layers(grown, config, family, sources)
    if width is not None:
        _widen(grown, family, width)
    return grown


def _grow_lists(grown: Config, old_layers: int, layers: Sequence[int], mtp: int) -> None:
    for key in PER_LAYER:
        values = grown.get(key)
        if not isinstance(values, list):
            continue
        if len(values) not in (old_layers, old_layers + mtp):
            raise ValueError(f"config.json: {key} has {len(values)} entries for {old_layers} layers; correct it first")
        kept = [i for i in layers if i < len(values)]
        grown[key] = [values[i] for i in kept]


def _grow_module_names(quantization: Config, family: Family, plan: GrowthPlan) -> None:
    for key in UNQUANTIZED:
        if quantization.get(key):
            quantization[key] = [place.name for place in family.naming.grown(plan, quantization[key])]


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
    is_dense, express = DENSE_RULES[family.dense]
    wanted = [is_dense(config, source) for source in sources]
    express(grown, wanted)
    if [is_dense(grown, i) for i in range(len(wanted))] != wanted:
        raise ValueError(
            f"config.json of a {config['model_type']} model cannot express dense layers at "
            f"{[i for i, dense in enumerate(wanted) if dense]} of {len(wanted)}: use interposition, or --layers "
            "with all dense layers where the family wants them"
        )


def _widen(grown: Config, family: Family, width: Width) -> None:
    routing = family.routing
    assert routing is not None
    scaled = width.factor if width.top_k == "scale" else 1
    for keys, factor in ((NUM_EXPERTS, width.factor), (TOP_K, scaled)):
        for key in keys:
            if grown.get(key) is not None:
                grown[key] = [v * factor for v in grown[key]] if isinstance(grown[key], list) else grown[key] * factor
    if is_grouped(grown, family):
        assert routing.groups is not None
        for key, factor in zip(routing.groups, (width.factor, scaled), strict=True):
            grown[key] *= factor
    if routing.kind == "sigmoid" and not routing.normalizes(grown) and scaled > 1:
        # Sigmoid scores add up over the duplicates; all other weights sum to what they did.
        if SCALING not in grown:
            raise ValueError(f"config.json has no {SCALING}, which must be divided by {scaled}; add it to the source")
        grown[SCALING] /= scaled


def _listed(config: Mapping[str, Any], layer: int) -> bool:
    step = config.get("decoder_sparse_step") or 1
    return layer in (config.get("mlp_only_layers") or ()) or (layer + 1) % step != 0


def _express_listed(config: Config, wanted: Sequence[bool]) -> None:
    config["decoder_sparse_step"] = 1
    config["mlp_only_layers"] = [i for i, dense in enumerate(wanted) if dense]


def _prefix(config: Mapping[str, Any], layer: int) -> bool:
    return layer < (config.get("first_k_dense_replace") or 0)


def _express_prefix(config: Config, wanted: Sequence[bool]) -> None:
    config["first_k_dense_replace"] = sum(wanted)


def _span(config: Mapping[str, Any], layer: int) -> bool:
    last = config.get("moe_layer_end_index", -1)
    start, interval = config.get("moe_layer_start_index", 1), config.get("moe_layer_interval", 1)
    return layer < start or layer > (last if last != -1 else num_layers(config) - 1) or (layer + 1) % interval != 0


def _express_span(config: Config, wanted: Sequence[bool]) -> None:
    sparse = [i for i, dense in enumerate(wanted) if not dense] or [len(wanted)]
    config["moe_layer_interval"] = 1
    config["moe_layer_start_index"], config["moe_layer_end_index"] = sparse[0], sparse[-1]


def _keep(config: Config, wanted: Sequence[bool]) -> None:
    """Nothing to express."""


DENSE_RULES: dict[str, tuple[Callable[[Mapping[str, Any], int], bool], Callable[[Config, Sequence[bool]], None]]] = {
    "none": (lambda config, layer: False, _keep),
    "all": (lambda config, layer: True, _keep),
    "listed": (_listed, _express_listed),
    "prefix": (_prefix, _express_prefix),
    "span": (_span, _express_span),
}
"""Which layers a config makes dense, and how it is made to say so."""
