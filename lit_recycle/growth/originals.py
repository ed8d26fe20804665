"""Copies and their originals in a model that has grown, perhaps more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.shape import experts_by_layer
from lit_recycle.growth.sources import AxisMap, SourceMap


@dataclass(frozen=True)
class Originals:
    """For each layer and each expert the one that it was copied from, in the present model; itself if none.

    Args:
        layers: ``layers[j]`` is the original of layer j, by the last growth in depth.
        experts: ``experts[j][e]`` is the original of expert e in layer j, by the last growth of its experts.
    """

    layers: tuple[int, ...]
    experts: tuple[tuple[int, ...], ...]

    @property
    def layer_copies(self) -> list[int]:
        return [j for j, original in enumerate(self.layers) if original != j]

    def expert_copies(self, layer: int) -> list[int]:
        return [e for e, original in enumerate(self.experts[layer]) if original != e]


def find_originals(model: GrowableModel, growth: Sequence[Mapping[str, Any]]) -> Originals:
    """The originals in a model that has been through ``growth`` (:class:`GrowthRecord` as dicts).

    A growth in depth copies the layers with the experts' originals in them; one of experts leaves the layers'.
    """
    experts = growth[0]["sizes_before"]["experts_by_layer"] if growth else experts_by_layer(model)
    originals = Originals(tuple(range(len(experts))), tuple(tuple(range(count)) for count in experts))
    for record in growth:
        for values in record["maps"]:
            originals = _grow(originals, SourceMap.from_dict(values))
    return originals


def _grow(before: Originals, sources: SourceMap) -> Originals:
    layers = before.layers
    if sources.changes_layers:
        layers = AxisMap(sources.num_layers, sources.layers).originals
    maps = (sources.experts(j) for j in range(len(sources.layers)))
    experts = tuple(
        before.experts[source] if mapped is None or _is_unchanged(mapped, before.experts[source]) else mapped.originals
        for mapped, source in zip(maps, sources.layers, strict=True)
    )
    return Originals(layers, experts)


def _is_unchanged(mapped: AxisMap, experts: tuple[int, ...]) -> bool:
    return mapped.is_identity and len(mapped.sources) == len(experts)
