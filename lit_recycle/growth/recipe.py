"""Recipes: how each tensor of a grown model is made of tensors of the model. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from lit_recycle.growth.axes import DENSE_WIDTH, EXPERTS
from lit_recycle.growth.names import Place
from lit_recycle.growth.operator import Cell, Change, GrowableModel, Operator, Target
from lit_recycle.growth.sources import AnyMap, SourceMap
from lit_recycle.growth.treatments import Draw, Treatment, Zero


class Recipe(NamedTuple):
    """How one tensor of a grown model is made.

    Args:
        target: The tensor.
        sources: The tensors that it is a weighted sum of, mostly one with weight one. Of experts cut out of dense
            networks those of each model, and of each matrix that is stacked in the target, in its order. A new tensor
            has one for its type and its place in memory.
        step: The growth, which says what is taken of the sources and what is done to the result.
        shape: Of a new tensor, which takes no values from its source.
    """

    target: Place
    sources: tuple[tuple[Place, float], ...]
    step: Step
    shape: tuple[int, ...] | None = None

    @property
    def takes(self) -> list[tuple[int, str, AnyMap]]:
        """What is gathered: dimension, axis and map; of all experts in one tensor perhaps a map for each."""
        if self.target.axes.names.isdisjoint(self.step.maps):
            return []
        layer, expert, dimensions = self.target.layer, self.target.expert, self.target.axes.dimensions
        return [
            (i, axis, mapped if expert is None else mapped.of(expert))
            for i, dimension in enumerate(dimensions)
            for axis in dimension.factors
            if isinstance(axis, str) and (mapped := self.step.maps.get(axis, {}).get(layer)) is not None
        ]

    @property
    def _stacked(self) -> int:
        """Number of matrices of the target for each one of a source."""
        return max(len(self.target.axes.matrices), 1) // max(len(self.sources[0][0].axes.matrices), 1)

    @property
    def splits_dense(self) -> bool:
        """Whether the experts of the target are slices of one dense network, the source."""
        return self.shape is None and self.target.is_routed and not self.sources[0][0].is_routed

    def treatments(self, expert: int | None) -> Sequence[Treatment]:
        return self.step.operator.treatments(Cell(self.step.change, self.target, expert, self.shape is not None))

    @property
    def keeps_places(self) -> bool:
        """Whether each element of the target comes from those in its place in the sources, treatments aside."""
        if self.splits_dense:  # an expert that is a whole network
            mapped = self.step.sources.experts(self.target.layer)
            return self.target.expert is not None and mapped is not None and mapped.size == len(self.sources) == 1
        return self.shape is None and not self.takes

    @property
    def is_copy(self) -> bool:
        """Whether each part of the target is a part of one source as it is, or zero."""
        if len(self.sources) > 1 or self.shape is not None or self.splits_dense:
            return False
        if any(axis != EXPERTS for _, axis, _ in self.takes):
            return False
        experts = self.experts()
        return all(set(self.treatments(e)) <= {Zero()} for e in ((self.target.expert,) if experts is None else experts))

    @property
    def is_drawn(self) -> bool:
        """Whether nothing of the sources is left in the target: it is new, or drawn anew throughout."""
        if self.shape is not None:
            return True
        experts = self.experts()
        parts = (self.target.expert,) if experts is None else experts
        return all(any(isinstance(t, Draw) for t in self.treatments(e)) for e in parts)

    def part(self, expert: int) -> Recipe:
        """The recipe of one expert's part of the target, which then stands alone."""
        mapped, sources = self.step.sources.experts(self.target.layer), self.sources
        if self.splits_dense and mapped is not None:
            sources = tuple(source for source in sources if source[0].model == mapped.origins[expert][0])
        sources = tuple((self._part_of(place, expert), weight) for place, weight in sources)
        shape = None if self.shape is None else self.shape[1:]
        return Recipe(_alone(self.target, expert), sources, self.step, shape)

    def _part_of(self, place: Place, expert: int) -> Place:
        if not place.is_routed:
            return place
        mapped = self.step.sources.experts(self.target.layer)
        return _alone(place, mapped.sources[expert] if mapped else expert)

    def grown_shape(self, source: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the target, from that of its source."""
        if self.shape is not None:
            return self.shape
        if not self.step.maps:
            return source
        shape = list(source)
        if self.splits_dense:
            slices = self.step.sources.experts(self.target.layer)
            assert slices is not None
            place = self.sources[0][0]
            i = next(i for i, d in enumerate(place.axes.dimensions) if DENSE_WIDTH in d.factors)
            shape[i] = shape[i] // slices.size * self._stacked
            if self.target.expert is None:
                shape.insert(0, slices.grown_size)
        for i, axis, mapped in self.takes:
            if axis != EXPERTS or not self.splits_dense:
                shape[i] = shape[i] * mapped.grown_size // mapped.size
        return tuple(shape)

    def experts(self) -> range | None:
        """Experts that stand in the one tensor; None where it is a single part."""
        if self.target.axes.expert_dimension is None:
            return None
        return range(self.step.after.size(EXPERTS, self.target.layer))


def _alone(place: Place, expert: int) -> Place:
    return place._replace(expert=expert, axes=place.axes.cell)


@dataclass(frozen=True)
class Step:
    """One operator of a growth.

    Args:
        operator: The operator.
        change: The model before and after it, and the map.
        key: Seed, number of the growth in the life of the model, and number of the operator in it.
    """

    operator: Operator
    change: Change
    key: tuple[int, int, int]

    @property
    def before(self) -> GrowableModel:
        return self.change.before

    @property
    def after(self) -> GrowableModel:
        return self.change.after

    @property
    def sources(self) -> SourceMap:
        return self.change.sources

    @cached_property
    def maps(self) -> Mapping[str, Mapping[int | None, AnyMap]]:
        """By axis and layer (None: outside of the layers) the maps that change something."""
        places: list[int | None] = [None, *range(len(self.sources.layers))]
        found = {axis: {p: m for p in places if (m := self.sources.axis(axis, p))} for axis in self.sources.axes}
        return {axis: maps for axis, maps in found.items() if maps}

    def recipes(self, places: Sequence[Place]) -> Iterator[Recipe]:
        """A recipe for each tensor of the grown model, in the source's order: layers where the first layer stood."""
        layers: dict[int, list[tuple[Place, list[Target]]]] = {}
        for place in places:
            if place.layer is not None:
                layers.setdefault(place.layer, []).append((place, [*self.operator.targets(place, self.change)]))
        done = False
        for place in places:
            if place.layer is None:
                yield Recipe(place, _sum(place, ((None, 1.0),), self.sources.shares), self)
            elif not done:
                done = True
                for j, source in enumerate(self.sources.layers):
                    yield from self._layer(j, layers.get(source, []))

    def _layer(self, layer: int, places: list[tuple[Place, list[Target]]]) -> Iterator[Recipe]:
        stacks: dict[str, list[Recipe]] = {}
        for recipe in self._each(layer, places):
            matrices = recipe.target.axes.matrices
            if recipe.shape is not None or len(matrices) <= max(len(recipe.sources[0][0].axes.matrices), 1):
                yield recipe
                continue
            parts = stacks.setdefault(recipe.target.name, [])
            parts.append(recipe)
            if len(parts) == len(matrices):
                sources = (source for part in parts for source in part.sources)
                ordered = sorted(sources, key=lambda source: (source[0].model, matrices.index(source[0].axes.label)))
                yield recipe._replace(sources=tuple(ordered))

    def _each(self, layer: int, places: list[tuple[Place, list[Target]]]) -> Iterator[Recipe]:
        """A recipe for each tensor of the layer and each source; a target with stacked matrices may have several."""
        experts, mapped = self._grown_experts(layer), self.sources.experts(layer)
        layers = self.sources.of_layer(layer)
        for source, targets in places:
            splits = mapped is not None and not source.is_routed
            blended = _sum(source, layers, self.sources.shares)
            for target, shape in targets:
                if shape is not None:
                    template = source.at(self.sources.layers[layer], source.expert)
                    yield Recipe(target.at(layer, None), ((template, 0.0),), self, shape)
                    continue
                stands_alone = "{e}" in target.suffix
                for e in experts.get(source.expert, (source.expert,)) if stands_alone else (None,):
                    place = target.at(layer, e)
                    cut = splits and place.is_routed
                    yield Recipe(place, _sum(source, layers, self._origins(place)) if cut else blended, self)

    def _origins(self, target: Place) -> Sequence[tuple[int, float]]:
        """The models that experts are cut out of, with their shares; of a single expert that one."""
        mapped = self.sources.experts(target.layer)
        assert mapped is not None
        origins = mapped.origins if target.expert is None else mapped.origins[target.expert : target.expert + 1]
        return [(model, 1.0) for model in sorted({model for model, _ in origins})]

    def _grown_experts(self, layer: int) -> dict[int | None, list[int]]:
        """The grown experts that come from each source expert; under None all of them, for a dense source."""
        mapped = self.sources.experts(layer)
        if mapped is None:
            return {}
        grown: dict[int | None, list[int]] = {e: [] for e in range(mapped.size)}
        for e, source in enumerate(mapped.sources):
            grown[source].append(e)
        return grown | {None: list(range(len(mapped.sources)))}


def _sum(
    place: Place, layers: Sequence[tuple[int | None, float]], models: Sequence[tuple[int, float]]
) -> tuple[tuple[Place, float], ...]:
    """The terms of a weighted sum: a tensor as it is in each layer of each model, and its weight."""
    if len(models) == len(layers) == 1:  # as nearly always: a large model has a hundred thousand tensors
        ((model, share),), ((layer, weight),) = models, layers
        return ((place.within(model, layer), share * weight),)
    return tuple((place.within(model, layer), share * weight) for model, share in models for layer, weight in layers)
