"""Shrinking: layers, experts or inner channels left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Literal

from typing_extensions import override

from lit_recycle.growth.axes import EXPERT_WIDTH, EXPERTS
from lit_recycle.growth.facts import Facts
from lit_recycle.growth.operator import GrowableModel, Operator
from lit_recycle.growth.operators.depth import DepthOperator
from lit_recycle.growth.operators.widen import INNER
from lit_recycle.growth.sources import AxisMap, LayerMaps, MapPerExpert, SourceMap


@dataclass(frozen=True)
class DropLayers(DepthOperator):
    """Leave layers out.

    Args:
        indices: The layers to leave out.
    """

    origin = "ShortGPT, arXiv 2403.03853"
    keeps = "no"
    indices: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "indices", tuple(self.indices))
        if self.zero_output:
            raise ValueError("zero_output is for copies, and DropLayers makes none")

    def layers(self, model: GrowableModel) -> Sequence[int]:
        wrong = [i for i in self.indices if not 0 <= i < model.num_layers]
        if wrong or not self.indices:
            raise ValueError(f"indices must be some of the layers 0..{model.num_layers - 1}, got {list(self.indices)}")
        return [i for i in range(model.num_layers) if i not in self.indices]


@dataclass(frozen=True, kw_only=True)
class Pruning(Operator):
    """Shrinking an axis to a size, at once or by and by.

    Args:
        events_left: Number of events in which the size is reached by equal parts, this one among them; an event with
            ``until`` sets it.
    """

    events_left: int = 1

    @override
    def gradual(self, times: int) -> Sequence[Operator]:
        return [replace(self, events_left=left) for left in range(times, 0, -1)]

    def next_size(self, what: str, before: int, target: int, unit: int) -> int:
        """The size after this event; on the way a multiple of what both sizes are multiples of, ``unit`` at most.

        Raises:
            ValueError: If nothing is left to do.
        """
        if before <= target:
            raise ValueError(f"{target} leaves nothing out of {before} {what}")
        unit = gcd(before, target, unit)
        return target + (before - target) * (self.events_left - 1) // self.events_left // unit * unit


@dataclass(frozen=True)
class PruneExperts(Pruning):
    """Keep the most useful experts of each layer, in their order.

    Args:
        num_experts: Experts per layer that are kept.
        by: What makes one useful: ``norm`` of its weights, ``load`` (tokens routed to it), ``gradient`` (squared norm),
            or ``norm_gradient``.
        top_k: Experts per token afterwards; as before when not given.
    """

    origin = "IDEA Prune, arXiv 2503.05920"
    axes = "E"
    needs = "norms, or load and gradients of a run"
    num_experts: int
    by: Literal["norm", "load", "gradient", "norm_gradient"] = "norm"
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.num_experts < 1:
            raise ValueError(f"num_experts must be at least 1, got {self.num_experts}")

    @property
    def asks(self) -> Sequence[str]:
        return (self.by,)

    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        experts = [model.size(EXPERTS, i) for i in range(model.num_layers + model.num_tail_layers)]
        count = self.next_size("experts", max(experts), self.num_experts, 1)
        return SourceMap.identity(len(experts), {EXPERTS: best(facts(self.by), experts, count)})

    def resized(self, model: GrowableModel, sources: SourceMap) -> GrowableModel:
        top_k = model.top_k if self.top_k is None else self.top_k
        if top_k > self.num_experts:
            raise ValueError(f"a token visits {top_k} experts, and {self.num_experts} would be left: give top_k")
        return model.resized(sources, self.top_k if self.events_left == 1 else None)

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        return f"experts {model.size(EXPERTS)} → {after.size(EXPERTS)} by {self.by}"


@dataclass(frozen=True)
class PruneInner(Pruning):
    """Keep the most useful inner channels of feed-forward networks, in their order; each expert keeps its own.

    Args:
        size: Inner width afterwards.
        networks: ``dense`` layers, the ``shared`` expert, or the routed ``experts``.
        by: What makes one useful: ``norm`` of its weights, or ``activation``, its root mean square over the tokens of
            the batch at hand.
    """

    origin = "IDEA Prune, arXiv 2503.05920"
    axes = "F S I"
    needs = "norms, or activations of a run"
    size: int
    networks: Literal["dense", "shared", "experts"] = "dense"
    by: Literal["norm", "activation"] = "norm"

    def __post_init__(self) -> None:
        if self.networks not in INNER or self.size < 1:
            raise ValueError(
                f"networks must be one of {', '.join(INNER)} and size at least 1, got {self.networks}, {self.size}"
            )
        if self.by not in ("norm", "activation"):
            raise ValueError(f"by must be norm or activation, got {self.by!r}")

    @property
    def asks(self) -> Sequence[str]:
        return (f"channel_{self.by}_{INNER[self.networks]}",)

    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        axis = INNER[self.networks]
        widths = [model.size(axis, i) for i in range(model.num_layers + model.num_tail_layers)]
        # On the way too in sizes that a grouped product of bfloat16 can take, 16 bytes at a time.
        size = self.next_size(f"inner channels ({self.networks})", max(widths), self.size, 8)
        values = facts(self.asks[0])
        if axis != EXPERT_WIDTH:
            return SourceMap.identity(len(widths), {axis: best(values, widths, size)})
        maps: list[MapPerExpert | None] = []
        for width, layer in zip(widths, values, strict=True):
            rows = [layer[start : start + width] for start in range(0, len(layer), width)] if width else []
            found = best(rows, [width] * len(rows), size)
            maps.append(MapPerExpert(found) if found else None)  # type: ignore[arg-type]
        return SourceMap.identity(len(widths), {axis: tuple(maps)})

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        axis = INNER[self.networks]
        return f"inner width ({self.networks}) {model.size(axis)} → {after.size(axis)}"


def best(values: Sequence[Sequence[float]], sizes: Sequence[int], count: int) -> LayerMaps:
    """In each layer, or expert, the entries of the greatest values, in their order."""
    maps: list[AxisMap | None] = []
    for size, layer in zip(sizes, values, strict=True):
        order = sorted(range(size), key=layer.__getitem__, reverse=True)  # stable: the first of equals first
        maps.append(AxisMap(size, tuple(sorted(order[:count]))) if size else None)
    return tuple(maps)
