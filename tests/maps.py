"""Plans written out by hand: maps of layers and experts for tensors of any naming, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch

from lit_recycle.growth.carry_out import Grown, own
from lit_recycle.growth.engine import grow_weight
from lit_recycle.growth.facts import Facts
from lit_recycle.growth.names import Naming, Place
from lit_recycle.growth.native import NATIVE
from lit_recycle.growth.operator import GrowableModel, Operator
from lit_recycle.growth.operators import DuplicateExperts, Layers
from lit_recycle.growth.plan import GrowthPlan, plan_growth
from lit_recycle.growth.recipe import Recipe
from lit_recycle.growth.sources import AxisMap, MapPerExpert, SourceMap


@dataclass(frozen=True)
class Shape:
    """A model that is nothing but layers of experts."""

    experts: tuple[int, ...]
    naming: Naming = NATIVE
    traits: frozenset[str] = frozenset()
    top_k: int = 1
    init_std: float = 0.02
    num_tail_layers: int = 0
    hidden: int = 1

    @property
    def num_layers(self) -> int:
        return len(self.experts)

    def size(self, axis: str, layer: int | None = None) -> int:
        if axis != "E":
            return self.hidden
        return max(self.experts) if layer is None else self.experts[layer]

    def resized(self, sources: SourceMap, top_k: int | None = None) -> Shape:
        maps = [sources.full_axis("E", j) for j in range(len(sources.layers))]
        experts = (self.experts[i] if m is None else len(m.sources) for m, i in zip(maps, sources.layers, strict=True))
        return replace(self, experts=tuple(experts), top_k=top_k or self.top_k)


@dataclass(frozen=True)
class WidenEachExpert(Operator):
    """Copies of other inner channels in each expert."""

    size: int
    seed: int = 0

    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        generator = torch.Generator().manual_seed(self.seed)

        def row(width: int) -> AxisMap:
            more = torch.randint(width, (self.size - width,), generator=generator).tolist()
            order = torch.randperm(self.size, generator=generator).tolist()
            return AxisMap(width, tuple([*range(width), *more][i] for i in order))

        maps = [
            MapPerExpert(tuple(row(model.size("F", layer)) for _ in range(experts))) if experts else None
            for layer in range(model.num_layers)
            for experts in [model.size("E", layer)]
        ]
        return SourceMap.identity(model.num_layers, {"F": tuple(maps)})

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        return f"inner width {self.size}"


@dataclass(frozen=True)
class MappedExperts(DuplicateExperts):
    """Experts copied by a map of one's own for each layer."""

    maps: tuple[AxisMap | None, ...] = ()

    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        return SourceMap.identity(len(self.maps), {"E": self.maps})


def plan_of_maps(
    layers: Sequence[int],
    experts: Sequence[Sequence[int]],
    *,
    naming: Naming = NATIVE,
    noise: float = 0.0,
    zero_output: bool = False,
    seed: int = 0,
    event: int = 0,
) -> GrowthPlan:
    """Layers from ``layers``; expert e of grown layer j from expert ``experts[j][e]`` of its source."""
    counts: dict[int, int] = {}
    for i, of_layer in zip(layers, experts, strict=True):
        counts[i] = max(counts.get(i, 0), max(of_layer, default=-1) + 1)
    sizes = [counts.get(i, 0) for i in range(max(layers) + 1)]
    model = Shape(tuple(sizes), naming)
    maps = tuple(AxisMap(sizes[i], tuple(e)) if e else None for i, e in zip(layers, experts, strict=True))
    operators = [Layers(layers, zero_output=zero_output), MappedExperts(noise=noise, top_k=1, maps=maps)]
    return plan_growth(model, operators, seed=seed, event=event)


def recipe_of(plan: GrowthPlan, name: str, names: Iterable[str]) -> list[Recipe]:
    """The recipes that lead to one tensor of the grown model, one for each step."""
    found: list[Recipe] = []
    for level in reversed(plan.recipes(names)):
        recipe = next(r for r in level if r.target.name == name)
        name = recipe.sources[0][0].name
        found.insert(0, recipe)
    return found


def grow_one(plan: GrowthPlan, name: str, source: torch.Tensor) -> torch.Tensor:
    """One tensor of the grown model, out of the one source that it has."""
    place: Place = plan.before.naming.parse(name)
    names = {place.at(i, None).name for i in range(plan.before.num_layers)} if place.layer is not None else {name}
    recipes, grown = recipe_of(plan, name, sorted(names)), Grown(source, False)
    for recipe in recipes:
        grown = grow_weight(recipe, [grown])
    copies = any(r.step.sources.layer_copies[r.target.layer] for r in recipes if r.target.layer is not None)
    return own(grown, not copies)


def source_of(plan: GrowthPlan, name: str, names: Iterable[str]) -> str:
    """The name of the tensor that one of the grown model comes from."""
    return recipe_of(plan, name, names)[0].sources[0][0].name


def is_layer_copy(plan: GrowthPlan, layer: int | None) -> bool:
    """Whether a layer of the grown model is a copy; for plans whose first step alone is one in depth."""
    return layer is not None and plan.steps[0].sources.layer_copies[layer]
