"""Who is whose copy in a model that has grown, perhaps more than once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.plan import GrowthPlan, grow_config
from lit_recycle.model.config import MoEConfig


@dataclass(frozen=True)
class Twins:
    """For each layer and each expert the original that it was copied from, in the present model; itself if none.

    Args:
        layers: ``layers[j]`` is the original of layer j, by the last growth in depth.
        experts: ``experts[j][e]`` is the original of expert e in layer j, by the last growth in width.
    """

    layers: tuple[int, ...]
    experts: tuple[tuple[int, ...], ...]

    @property
    def layer_copies(self) -> list[int]:
        return [j for j, original in enumerate(self.layers) if original != j]

    def expert_copies(self, layer: int) -> list[int]:
        return [e for e, original in enumerate(self.experts[layer]) if original != e]


def find_twins(config: MoEConfig, growth: Sequence[Mapping[str, Any]]) -> Twins:
    """The twins in a model of shape ``config`` that has been through ``growth`` (:class:`GrowthRecord` as dicts).

    A growth in depth copies the layers with the experts' twins in them; a growth in width leaves the layers' twins.
    """
    first = MoEConfig.from_dict(growth[0]["before"]) if growth else config
    experts = [range(0 if first.is_dense(i) else first.num_experts) for i in range(first.num_layers)]
    twins = Twins(tuple(range(first.num_layers)), tuple(map(tuple, experts)))
    for record in growth:
        twins = _grow(twins, plan_of(record))
    return twins


def plan_of(record: Mapping[str, Any]) -> GrowthPlan:
    """The source map of a growth that has happened."""
    event = GrowthEvent.from_dict(record["event"])
    return grow_config(MoEConfig.from_dict(record["before"]), event.depth, event.width)[1]


def _grow(twins: Twins, plan: GrowthPlan) -> Twins:
    layers = twins.layers if plan.layers == tuple(range(len(plan.layers))) else _first_places(plan.layers)
    experts = tuple(
        _first_places(plan.experts[j]) if plan.grows_experts(j) else twins.experts[source]
        for j, source in enumerate(plan.layers)
    )
    return Twins(layers, experts)


def _first_places(sources: Sequence[int]) -> tuple[int, ...]:
    first: dict[int, int] = {}
    return tuple(first.setdefault(source, place) for place, source in enumerate(sources))
