"""New rows: the layers and entries of axes that a growth has added, followed through later growths. No torch.

All that is needed are the maps that a checkpoint has recorded. Whether an element of a tensor is new follows from the
names of its axes: it is if its layer is, or its entry of any axis that the tensor has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any, NamedTuple

from typing_extensions import TypeIs

from lit_recycle.growth.axes import DENSE_WIDTH, EXPERTS
from lit_recycle.growth.names import Place
from lit_recycle.growth.sources import AxisMap, MapPerExpert, SourceMap

Flags = tuple[bool, ...]
AnyFlags = Flags | tuple[Flags, ...]
"""For each entry of an axis, or for each expert and entry, where experts differ."""


@dataclass(frozen=True)
class NewRows:
    """What a growth has added to a model.

    Args:
        layers: Whether each layer is new.
        experts: Number of routed experts of each layer.
        entries: By axis and layer (None: outside of the layers), whether each entry of the axis is new, by expert where
            they differ; only where one of them is.
        tensors: Layer and suffix of parameters that are new as a whole.
    """

    layers: Flags
    experts: tuple[int, ...]
    entries: Mapping[tuple[str, int | None], AnyFlags]
    tensors: frozenset[tuple[int, str]] = frozenset()

    @classmethod
    def of(cls, growth: Sequence[Mapping[str, Any]]) -> NewRows:
        """What the first of some growths (:class:`GrowthRecord` as dicts) has added, after all of them."""
        first, *later = growth
        own = [SourceMap.from_dict(values) for values in first["maps"]]
        experts, count = first["sizes_before"]["experts_by_layer"], own[0].num_layers
        tail = (1,) * (count - len(experts))  # layers for multi-token prediction, which are never cut into experts
        new = cls((False,) * count, (*experts, *tail), {})
        for sources in own:
            new = new.grown(sources, adds=True)
        new = cls(new.layers, new.experts, new.entries, frozenset((layer, name) for layer, name in first["drawn"]))
        for sources in (SourceMap.from_dict(values) for record in later for values in record["maps"]):
            new = new.grown(sources, adds=False)
        return new

    def grown(self, sources: SourceMap, adds: bool) -> NewRows:
        """The same rows after a growth along a map, copied with their sources.

        What has several sources is new if one of them is; so is an expert that is cut out of a dense network of which
        some channels are.

        Args:
            sources: The map.
            adds: The copies that it makes count as new, too.
        """
        parts = [[layer for layer, _ in sources.of_layer(j)] for j in range(len(sources.layers))]
        layers = tuple(
            any(self.layers[i] for i in part) or (adds and copy)
            for part, copy in zip(parts, sources.layer_copies, strict=True)
        )
        experts = tuple(
            len(mapped.sources) if (mapped := sources.experts(j)) else self.experts[part[0]]
            for j, part in enumerate(parts)
        )
        places: list[tuple[int | None, list[int | None]]] = [(None, [None]), *enumerate(parts)]  # type: ignore[list-item]
        axes = {*sources.axes, *(axis for axis, _ in self.entries)}
        entries = {(a, place): self._entries(a, place, part, sources, adds) for a in axes for place, part in places}
        tensors = frozenset((j, suffix) for j, part in enumerate(parts) for i, suffix in self.tensors if i in part)
        return NewRows(layers, experts, {key: flags for key, flags in entries.items() if _any(flags)}, tensors)

    def _entries(
        self, axis: str, place: int | None, parts: Sequence[int | None], sources: SourceMap, adds: bool
    ) -> AnyFlags:
        mapped, before = sources.full_axis(axis, place), self._before(axis, parts)
        if is_by_expert(before) and (experts := sources.experts(place)) is not None:
            before = tuple(before[source] for source in experts.sources)
        if mapped is None:
            return before
        first = parts[0]
        if axis == EXPERTS and first is not None and not self.experts[first]:
            channels = self._before(DENSE_WIDTH, parts)
            width = len(channels) // mapped.size
            before = tuple(any(channels[g * width : (g + 1) * width]) for g in range(mapped.size))
        before = before or (False,) * mapped.size
        if isinstance(mapped, AxisMap) and not is_by_expert(before):
            return _mapped(before, mapped, adds)
        count = len(mapped.maps) if isinstance(mapped, MapPerExpert) else len(before)
        return tuple(_mapped(of_expert(before, e), mapped.of(e), adds) for e in range(count))

    def _before(self, axis: str, parts: Sequence[int | None]) -> AnyFlags:
        found = [flags for part in parts if (flags := self.entries.get((axis, part)))]
        if any(is_by_expert(flags) for flags in found):
            count = next(len(flags) for flags in found if is_by_expert(flags))
            return tuple(_union([of_expert(flags, e) for flags in found]) for e in range(count))
        return _union(found)  # type: ignore[arg-type]

    # --- elements of tensors -----------------------------------------------------------------------------------------

    def has_whole(self, place: Place) -> bool:
        """Whether a tensor is new as a whole."""
        return place.layer is not None and (self.layers[place.layer] or (place.layer, place.suffix) in self.tensors)

    def differs_by_expert(self, place: Place) -> bool:
        """Whether other entries are new in other experts of a tensor."""
        return any(is_by_expert(self.entries.get((axis, place.layer), ())) for axis in place.axes.names)

    def along(self, place: Place, dimension: int, length: int, expert: int | None = None) -> Flags | None:
        """For each index of a dimension, in an expert where they differ, whether it is new; None where none is."""
        if dimension >= len(place.axes.dimensions):
            return None
        axes, flags = place.axes.dimensions[dimension], None
        for axis in axes.factors:
            new = self.entries.get((axis, place.layer)) if isinstance(axis, str) else None
            if new is not None and isinstance(axis, str):
                spread = axes.repeated(axis, of_expert(new, place.expert if expert is None else expert), length)
                flags = tuple(bool(a) for a in spread) if flags is None else tuple(map(_either, flags, spread))
        return flags

    @property
    def any(self) -> bool:
        """Whether anything is new."""
        return any(self.layers) or bool(self.entries) or bool(self.tensors)


def _either(a: float, b: float) -> bool:
    return bool(a or b)


def _mapped(before: Flags, mapped: AxisMap, adds: bool) -> Flags:
    return tuple(before[s] or (adds and copy) for s, copy in zip(mapped.sources, mapped.copies, strict=True))


def _union(found: Sequence[Flags]) -> Flags:
    return tuple(any(flags) for flags in zip(*found, strict=True))


def _any(flags: AnyFlags) -> bool:
    return any(any(row) if isinstance(row, tuple) else row for row in flags)


def is_by_expert(flags: AnyFlags) -> TypeIs[tuple[Flags, ...]]:
    """Whether entries are new expert by expert."""
    return bool(flags) and isinstance(flags[0], tuple)


def of_expert(flags: AnyFlags, expert: int | None) -> Flags:
    """Whether each entry is new in an expert."""
    if not is_by_expert(flags):
        return flags  # type: ignore[return-value]
    assert expert is not None, "each expert has flags of its own"
    return flags[expert]


class Block(NamedTuple):
    """Elements of a tensor that are alike: those at all combinations of some indices of each dimension.

    Args:
        indices: Along each dimension; None for all of them.
        kind: For each growth that is asked about, whether they are new.
        size: Number of elements.
    """

    indices: tuple[Sequence[int] | None, ...]
    kind: Flags
    size: int


def blocks(place: Place, shape: Sequence[int], growths: Sequence[NewRows]) -> list[Block]:
    """A tensor divided into blocks by what each of some growths has added to it."""
    whole = tuple(new.has_whole(place) for new in growths)
    outer, experts = place.axes.expert_dimension, list[int | None]([None])
    if outer is not None and any(new.differs_by_expert(place) for new in growths):
        experts = [*range(shape[outer])]
    found = []
    for expert in experts:
        groups = [_groups(place, i, length, growths, expert) for i, length in enumerate(shape)]
        if expert is not None and outer is not None:
            groups[outer] = {kind: [expert] for kind, indices in groups[outer].items() if expert in indices}
        for chosen in product(*(group.items() for group in groups)):
            kind = tuple(w or any(signature[i] for signature, _ in chosen) for i, w in enumerate(whole))
            indices = tuple(
                None if len(kept) == length else kept for (_, kept), length in zip(chosen, shape, strict=True)
            )
            found.append(Block(indices, kind, prod(len(kept) for _, kept in chosen)))
    if len({block.kind for block in found}) == 1:
        return [Block((None,) * len(shape), found[0].kind, prod(shape))]
    return found


def _groups(
    place: Place, dimension: int, length: int, growths: Iterable[NewRows], expert: int | None
) -> dict[Flags, Sequence[int]]:
    """Indices of a dimension, in an expert where they differ, by whether each growth has added them."""
    flags = [new.along(place, dimension, length, expert) for new in growths]
    if not any(flags):
        return {(False,) * len(flags): range(length)}
    found: dict[Flags, list[int]] = {}
    for i in range(length):
        found.setdefault(tuple(f is not None and f[i] for f in flags), []).append(i)
    return dict(found)
