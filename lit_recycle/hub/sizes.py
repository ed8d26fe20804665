"""Sizes that a config claims, held against the shapes of the weights. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod

from lit_recycle.growth.axes import EXPERTS, Dimension
from lit_recycle.growth.names import Place
from lit_recycle.hub.config_keys import head_dim
from lit_recycle.hub.model import HubModel

HIDDEN = "hidden_size"


def check_sizes(
    model: HubModel, places: Mapping[str, Place], shapes: Mapping[str, Sequence[int]], where: object
) -> None:
    """Compare every dimension whose axes the config tells.

    Args:
        model: The model that the config describes.
        places: The stored tensors by name.
        shapes: Their shapes, of those that are to be compared.
        where: What an error names.

    Raises:
        ValueError: For the first that contradicts it; one that a single key of the config tells goes first.
    """
    found = sorted(_contradictions(model, places, shapes), key=lambda one: len(one[0]))
    for keys, claimed, name, shape in found[:1]:
        said = ", ".join(f"{key} {model.config[key]}" for key in keys if model.config.get(key) is not None)
        raise ValueError(
            f"{where}: config.json says {said}, and {name} is {list(shape)} where that makes {claimed}: take the "
            "config.json that belongs to these weights"
        )


def _contradictions(
    model: HubModel, places: Mapping[str, Place], shapes: Mapping[str, Sequence[int]]
) -> Iterator[tuple[list[str], int, str, Sequence[int]]]:
    seen = set()
    for name, shape in shapes.items():
        place = places[name]
        if (alike := (place.layer, id(place.axes), *shape)) in seen:  # a model has tens of thousands of experts
            continue
        seen.add(alike)
        for dimension, length in zip(place.axes.dimensions, shape, strict=False):
            keys = _keys(model, dimension)
            claimed = _claimed(model, place, dimension)
            if keys and claimed and claimed != length:
                yield keys, claimed, name, shape


def _keys(model: HubModel, dimension: Dimension) -> list[str]:
    """Keys of the config that tell a dimension's axes."""
    axes = [factor for factor in dimension.factors if isinstance(factor, str) and factor not in ("one", EXPERTS)]
    told = {"D": HIDDEN, "P": "head_dim"} | dict(model.family.sizes)
    return [told[axis] for axis in axes if axis in told]


def _claimed(model: HubModel, place: Place, dimension: Dimension) -> int:
    """The length that the config gives a dimension; 0 where it does not tell."""
    sizes = []
    for factor in dimension.factors:
        if isinstance(factor, tuple):
            sizes.append(len(factor))
        elif factor == "D" and "D" not in model.family.sizes:  # not of experts, which some families make narrower
            sizes.append(int(model.config.get(HIDDEN) or 0) if place.layer is None else 0)
        elif factor == "P":
            sizes.append(head_dim(model.config) if "H" in model.family.sizes else 0)
        else:
            sizes.append(1 if factor == "one" else model.size(factor, place.layer))
    return prod(sizes)
