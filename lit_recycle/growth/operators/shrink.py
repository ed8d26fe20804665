"""Shrinking: layers, experts or inner channels left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.facts import Facts
from lit_recycle.growth.operator import GrowableModel, Operator
from lit_recycle.growth.operators.depth import DepthOperator
from lit_recycle.growth.operators.widen import INNER
from lit_recycle.growth.sources import AxisMap, LayerMaps, SourceMap


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


@dataclass(frozen=True)
class PruneExperts(Operator):
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
        if not any(n > self.num_experts for n in experts):
            raise ValueError(f"num_experts {self.num_experts} leaves nothing out of {max(experts)} experts")
        return SourceMap.identity(len(experts), {EXPERTS: best(facts(self.by), experts, self.num_experts)})

    def resized(self, model: GrowableModel, sources: SourceMap) -> GrowableModel:
        top_k = model.top_k if self.top_k is None else self.top_k
        if top_k > self.num_experts:
            raise ValueError(f"a token visits {top_k} experts, and {self.num_experts} would be left: give top_k")
        return model.resized(sources, self.top_k)

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        return f"experts {model.size(EXPERTS)} → {after.size(EXPERTS)} by {self.by}"


@dataclass(frozen=True)
class PruneInner(Operator):
    """Keep the inner channels of the greatest norm in dense networks or shared experts, in their order.

    Args:
        size: Inner width afterwards.
        networks: The ``dense`` layers or the ``shared`` expert.
    """

    origin = "IDEA Prune, arXiv 2503.05920"
    axes = "I S"
    needs = "norms"
    size: int
    networks: Literal["dense", "shared"] = "dense"

    def __post_init__(self) -> None:
        if self.networks not in ("dense", "shared") or self.size < 1:
            raise ValueError(f"networks must be dense or shared and size at least 1, got {self.networks}, {self.size}")

    @property
    def asks(self) -> Sequence[str]:
        return (f"channel_norm_{INNER[self.networks]}",)

    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        axis = INNER[self.networks]
        widths = [model.size(axis, i) for i in range(model.num_layers + model.num_tail_layers)]
        if not any(n > self.size for n in widths):
            raise ValueError(f"size {self.size} leaves nothing out of {max(widths)} inner channels ({self.networks})")
        return SourceMap.identity(len(widths), {axis: best(facts(self.asks[0]), widths, self.size)})

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        axis = INNER[self.networks]
        return f"inner width ({self.networks}) {model.size(axis)} → {after.size(axis)}"


def best(values: Sequence[Sequence[float]], sizes: Sequence[int], count: int) -> LayerMaps:
    """In each layer the entries of the greatest values, in their order."""
    maps: list[AxisMap | None] = []
    for size, layer in zip(sizes, values, strict=True):
        order = sorted(range(size), key=layer.__getitem__, reverse=True)  # stable: the first of equals first
        maps.append(AxisMap(size, tuple(sorted(order[:count]))) if size else None)
    return tuple(maps)
