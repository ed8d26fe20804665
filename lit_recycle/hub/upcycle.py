"""Dense families made Mixture-of-Experts families: names and config keys. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

from lit_recycle.growth.axes import DENSE_WIDTH, EXPERTS
from lit_recycle.growth.names import Place
from lit_recycle.growth.operator import Target
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.family import Family

Config = dict[str, Any]
REFUSED = ("mlp_bias", "quantization_config")
IMPLIED = {"rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 10_000.0}
"""What a dense model's config means by keys that it leaves out; the defaults of the families differ."""


def upcycled_config(
    config: Config, source: Family, layers: Sequence[int], num_experts: int, top_k: int, granularity: int
) -> tuple[Config, Family]:
    """The config of the Mixture-of-Experts model, and its family.

    Raises:
        ValueError: For a family that has no Mixture-of-Experts sibling, or a config that the sibling cannot express.
    """
    if source.becomes is None:
        can = [name for name, family in FAMILIES.items() if family.becomes]
        raise ValueError(f"{config['model_type']!r} models cannot be upcycled; those that can are {', '.join(can)}")
    config, model_type, family = deepcopy(config), source.becomes, FAMILIES[source.becomes]
    recipe = family.upcycled
    assert recipe is not None
    for key in (*REFUSED, *recipe.refused):
        if config.get(key):
            raise ValueError(f"config.json sets {key}, which {model_type} models cannot have")
    _write_out(config, source)
    if not recipe.windows:
        _check_windows(config, source, model_type)
    config = {**recipe.defaults, **config, **recipe.config}
    config |= {"model_type": model_type, "architectures": [recipe.architecture]}
    size = config["intermediate_size"] // granularity
    config |= {recipe.num_experts: num_experts, recipe.top_k: top_k, recipe.expert_size: size}
    if recipe.shared_size:
        config[family.sizes["S"]] = recipe.shared_size
    wanted = [i not in layers for i in range(config["num_hidden_layers"])]
    family.dense.express(config, wanted)
    if [family.is_dense(config, i) for i in range(len(wanted))] != wanted:
        dense = [i for i, stays in enumerate(wanted) if stays]
        raise ValueError(f"all layers of a {model_type} model have experts, and layers {dense} would be dense")
    return config, family


def _write_out(config: Config, source: Family) -> None:
    """What the config leaves out, in the words of its family: the other one would read something else."""
    implied, heads = {**IMPLIED, **source.implied}, config["num_attention_heads"]
    if config.get("rope_parameters"):
        implied.pop("rope_theta")
    for key, value in implied.items():
        config.setdefault(key, value)
    if config.get("num_key_value_heads") is None:
        config["num_key_value_heads"] = heads
    if config.get("head_dim") is None:
        config["head_dim"] = config["hidden_size"] // heads


def _check_windows(config: Config, source: Family, model_type: str) -> None:
    """See that all layers see all of a text, and say nothing more of kinds of layers.

    Raises:
        ValueError: For a layer that sees a sliding window.
    """
    count = config["num_hidden_layers"]
    pattern = source.patterns.get("layer_types")
    kinds = config.pop("layer_types", None) or (pattern(config, count) if pattern else ["full_attention"] * count)
    sliding = [i for i, kind in enumerate(kinds) if kind != "full_attention"]
    if sliding:
        raise ValueError(
            f"layers {sliding} see a sliding window of {config.get('sliding_window')} tokens, which {model_type} "
            "models cannot have; to go without it, write full_attention for each layer into the list layer_types of "
            "the source's config.json"
        )
    config.pop("sliding_window", None)
    rope = config.get("rope_parameters")
    if isinstance(rope, dict) and "full_attention" in rope:
        config["rope_parameters"] = rope["full_attention"]


def routed_targets(
    place: Place, config: Config, family: Family, experts: Sequence[int], suffixes: Iterable[str]
) -> Iterable[Target]:
    """What a tensor of a dense layer becomes when the layer gets experts.

    Args:
        place: The tensor.
        config: The config of the Mixture-of-Experts model.
        family: Its family.
        experts: Routed experts of each layer.
        suffixes: The tensors that its layers may have; of several with the same matrix the first is meant.
    """
    if place.layer is None or DENSE_WIDTH not in place.axes.names:
        yield Target(place)
        return
    naming, (matrix,) = family.naming, place.axes.matrices
    named = {suffix: naming.axes_of(suffix) for suffix in suffixes}

    def target(suffix: str, shape: tuple[int, ...] | None = None) -> Target:
        return Target(place.renamed(suffix, named[suffix]), shape)

    first: dict[str, str] = {}
    for suffix, axes in named.items():
        if "{e}" in suffix or axes.expert_dimension is not None:
            first |= {matrix: suffix for matrix in axes.matrices if matrix not in first}
    yield target(first[matrix])
    if matrix != "gate":  # what is new is made once
        return
    assert family.upcycled is not None
    new = [first[label] for label in ("router", "balance") if label in first]
    sizes = _sizes(config, family) | {EXPERTS: experts[place.layer]}
    for suffix in (*new, *family.upcycled.shared):
        shape = (sizes[factor] for d in named[suffix].dimensions for factor in d.factors)  # type: ignore[index]
        yield target(suffix, tuple(shape))


def _sizes(config: Config, family: Family) -> dict[str, int]:
    """Of the axes that tensors without a source have."""
    told = {axis: config[key] for axis, key in family.sizes.items() if key in config}
    return {"D": config["hidden_size"], "one": 1} | told
