"""Dense families made Mixture-of-Experts families: names and config keys. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.names import Naming, Place
from lit_recycle.growth.operator import Target
from lit_recycle.hub.families import FAMILIES
from lit_recycle.hub.family import Family

Config = dict[str, Any]
REFUSED = ("attention_bias", "mlp_bias", "quantization_config")


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
    heads, size = config["num_attention_heads"], config["intermediate_size"] // granularity
    # Defaults differ between the families: what the source leaves out is written out.
    config.setdefault("num_key_value_heads", heads)
    config.setdefault("rms_norm_eps", 1e-6)
    config.setdefault("tie_word_embeddings", False)
    if not config.get("head_dim"):
        config["head_dim"] = config["hidden_size"] // heads
    if not config.get("rope_parameters"):
        config.setdefault("rope_theta", 10_000.0)
    config = {**recipe.defaults, **config, **recipe.config}
    config |= {"model_type": model_type, "architectures": [recipe.architecture]}
    config |= {recipe.num_experts: num_experts, "num_experts_per_tok": top_k, family.sizes["F"]: size}
    if recipe.shared_size:
        config[family.sizes["S"]] = recipe.shared_size
    wanted = [i not in layers for i in range(config["num_hidden_layers"])]
    family.dense.express(config, wanted)
    if [family.is_dense(config, i) for i in range(len(wanted))] != wanted:
        dense = [i for i, stays in enumerate(wanted) if stays]
        raise ValueError(f"all layers of a {model_type} model have experts, and layers {dense} would be dense")
    return config, family


def routed_targets(place: Place, config: Config, family: Family, experts: Sequence[int]) -> Iterable[Target]:
    """What a tensor of a dense layer becomes when the layer gets experts.

    Args:
        place: The tensor.
        config: The config of the Mixture-of-Experts model.
        family: Its family.
        experts: Routed experts of each layer.
    """
    if not place.suffix.startswith("mlp.") or place.layer is None:
        yield Target(place)
        return
    naming = family.naming
    (matrix,) = place.axes.matrices
    yield _named(place, naming, next(s for s in naming.axes if "{e}" in s and naming.axes_of(s).label == matrix))
    if matrix != "gate":  # what is new is made once
        return
    assert family.upcycled is not None
    sizes = {axis: config[key] for axis, key in family.sizes.items()} | {EXPERTS: experts[place.layer], "one": 1}
    router = next(suffix for suffix in naming.axes if naming.axes_of(suffix).label == "router")
    for suffix in (router, *family.upcycled.shared):
        shape = (sizes[factor] for d in naming.axes_of(suffix).dimensions for factor in d.factors)  # type: ignore[index]
        yield _named(place, naming, suffix, tuple(shape))


def _named(place: Place, naming: Naming, suffix: str, shape: tuple[int, ...] | None = None) -> Target:
    return Target(place.renamed(suffix, naming.axes_of(suffix)), shape)
