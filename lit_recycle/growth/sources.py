"""Source maps: for every layer, and every entry of an axis, of a grown model the one that it comes from. No torch.

They are what a growth is; a checkpoint records them, and nothing is worked out from them twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from lit_recycle.growth.axes import EXPERTS


@dataclass(frozen=True)
class AxisMap:
    """Where each entry of a grown axis comes from; the first entry from a source is the original, others are copies.

    Args:
        size: Entries before the growth.
        sources: The source of each entry after it.
        models: The model that it is in, where there are several to take from; empty for the first of all entries.
    """

    size: int
    sources: tuple[int, ...]
    models: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        assert len(self.models) in (0, len(self.sources)), "a model for each entry"
        outside = [s for s in self.sources if not 0 <= s < self.size]
        if outside or not self.sources:
            raise ValueError(f"a map of {self.size} entries must name sources 0..{self.size - 1}, got {outside or '-'}")

    @classmethod
    def identity(cls, size: int) -> AxisMap:
        return cls(size, tuple(range(size)))

    @property
    def grown_size(self) -> int:
        """Entries after the growth."""
        return len(self.sources)

    @property
    def has_copies(self) -> bool:
        return any(self.copies)

    def of(self, expert: int | None) -> AxisMap:
        """The map inside an expert: it is the same in all."""
        return self

    @cached_property
    def is_identity(self) -> bool:
        return self.sources == tuple(range(self.size)) and not any(self.models)

    @cached_property
    def origins(self) -> tuple[tuple[int, int], ...]:
        """Model and source of each entry."""
        return tuple(zip(self.models or (0,) * len(self.sources), self.sources, strict=True))

    @cached_property
    def copies(self) -> tuple[bool, ...]:
        """Whether each entry is a copy."""
        return tuple(_copies(self.origins))

    @cached_property
    def multiplicities(self) -> tuple[int, ...]:
        """For each entry how many share its source, m."""
        count = Counter(self.origins)
        return tuple(count[origin] for origin in self.origins)

    @cached_property
    def originals(self) -> tuple[int, ...]:
        """For each entry the first one with its source."""
        first: dict[tuple[int, int], int] = {}
        return tuple(first.setdefault(origin, entry) for entry, origin in enumerate(self.origins))


@dataclass(frozen=True)
class MapPerExpert:
    """Where each entry of an axis inside experts comes from, expert by expert: a table of sources, ``[E, F']``.

    Args:
        maps: The map inside each expert of the grown model, from the entries of the expert that it comes from.
    """

    maps: tuple[AxisMap, ...]

    def __post_init__(self) -> None:
        if len({(m.size, m.grown_size) for m in self.maps}) != 1:
            raise ValueError("experts of a layer have the same sizes, and their maps have others or there are none")

    @property
    def size(self) -> int:
        return self.maps[0].size

    @property
    def grown_size(self) -> int:
        return self.maps[0].grown_size

    @property
    def has_copies(self) -> bool:
        return any(m.has_copies for m in self.maps)

    def of(self, expert: int | None) -> AxisMap:
        """The map inside an expert."""
        assert expert is not None, "each expert has a map of its own"
        return self.maps[expert]

    @cached_property
    def is_identity(self) -> bool:
        return all(m.is_identity for m in self.maps)


AnyMap = AxisMap | MapPerExpert
AXIS_NAMES = {
    "D": "hidden channels",
    "H": "query heads",
    "G": "key and value heads",
    "E": "experts",
    "F": "inner channels (experts)",
    "S": "inner channels (shared)",
    "I": "inner channels (dense)",
}
LayerMaps = tuple[AnyMap | None, ...]
"""A map for each grown layer; None where a layer lacks the axis."""


@dataclass(frozen=True)
class SourceMap:
    """A growth along layers and along named axes.

    Args:
        layers: The source layer of each grown layer.
        num_layers: Layers before the growth.
        axes: The axes that are mapped: one map for the whole model, or one for each grown layer, and there for each
            expert, where experts differ.
        blends: Grown layers that are weighted sums of several source layers, as (layer, weight).
        models: Where there are several models to take from, the share of each in all that no axis' map takes from one.
    """

    layers: tuple[int, ...]
    num_layers: int
    axes: Mapping[str, AxisMap | LayerMaps] = field(default_factory=dict)
    blends: Mapping[int, tuple[tuple[int, float], ...]] = field(default_factory=dict)
    models: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        for axis, maps in self.axes.items():
            assert isinstance(maps, AxisMap) or len(maps) == len(self.layers), f"{axis}: a map for each grown layer"

    @classmethod
    def identity(
        cls, num_layers: int, axes: Mapping[str, AxisMap | LayerMaps] | None = None, models: Sequence[float] = (1.0,)
    ) -> SourceMap:
        """Layers stay as they are."""
        return cls(tuple(range(num_layers)), num_layers, axes or {}, models=tuple(models))

    def full_axis(self, name: str, layer: int | None) -> AnyMap | None:
        """The map of an axis in a grown layer, or outside of the layers; None where there is none."""
        maps = self.axes.get(name)
        if isinstance(maps, tuple):
            return None if layer is None else maps[layer]
        return maps

    def axis(self, name: str, layer: int | None) -> AnyMap | None:
        """As :meth:`full_axis`; None also where the map changes nothing."""
        mapped = self.full_axis(name, layer)
        return None if mapped is None or mapped.is_identity else mapped

    def experts(self, layer: int | None) -> AxisMap | None:
        """The map of the routed experts in a grown layer; None where they are not mapped."""
        mapped = self.full_axis(EXPERTS, layer)
        assert not isinstance(mapped, MapPerExpert), "an expert is in no expert"
        return mapped

    @cached_property
    def changes_layers(self) -> bool:
        return self.layers != tuple(range(self.num_layers)) or bool(self.blends)

    @cached_property
    def layer_copies(self) -> tuple[bool, ...]:
        return tuple(_copies(self.layers))

    def of_layer(self, layer: int) -> tuple[tuple[int, float], ...]:
        """The source layers of a grown layer, each with its weight."""
        return self.blends.get(layer) or ((self.layers[layer], 1.0),)

    @cached_property
    def shares(self) -> tuple[tuple[int, float], ...]:
        """The models that are averaged, each with its share."""
        return tuple((model, share) for model, share in enumerate(self.models) if share)

    def listing(self) -> Iterator[tuple[str, AxisMap]]:
        """What is mapped and how, for people; of an axis that is mapped by layers or experts, the first one's map."""
        if self.changes_layers:
            yield "layers", AxisMap(self.num_layers, self.layers)
        for axis, maps in self.axes.items():
            each = (maps,) if isinstance(maps, AxisMap) else tuple(m for m in maps if m is not None)
            alike = "" if len(set(each)) == 1 else ", first layer"
            alike += ", first expert" if isinstance(each[0], MapPerExpert) else ""
            yield AXIS_NAMES.get(axis, axis) + alike, each[0].of(0)

    def to_dict(self) -> dict[str, Any]:
        """Plain types. Maps that are alike in all layers that have them are written once."""
        return {
            "layers": list(self.layers),
            "num_layers": self.num_layers,
            "axes": {name: _plain(maps) for name, maps in self.axes.items()},
            "blends": {str(j): [list(part) for part in parts] for j, parts in self.blends.items()},
            "models": list(self.models),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SourceMap:
        layers = tuple(values["layers"])
        axes = {name: _read(maps, len(layers)) for name, maps in values["axes"].items()}
        blends = {int(j): tuple((int(i), float(w)) for i, w in parts) for j, parts in values["blends"].items()}
        return cls(layers, values["num_layers"], axes, blends, tuple(values["models"]))


def _plain(maps: AnyMap | LayerMaps) -> Any:
    if isinstance(maps, AxisMap):
        one = {"size": maps.size, "sources": list(maps.sources)}
        return one | {"models": list(maps.models)} if maps.models else one
    if isinstance(maps, MapPerExpert):
        return {"size": maps.size, "by_expert": [list(m.sources) for m in maps.maps]}
    kinds = {m for m in maps if m is not None}
    if len(kinds) == 1:
        return _plain(kinds.pop()) | {"in_layers": [j for j, m in enumerate(maps) if m is not None]}
    return [None if m is None else _plain(m) for m in maps]


def _read(maps: Any, num_layers: int) -> AxisMap | LayerMaps:
    if isinstance(maps, list):
        return tuple(None if m is None else _read_one(m) for m in maps)
    one = _read_one(maps)
    if "in_layers" not in maps:
        return one
    where = set(maps["in_layers"])
    return tuple(one if j in where else None for j in range(num_layers))


def _read_one(values: Mapping[str, Any]) -> Any:
    if "by_expert" in values:
        return MapPerExpert(tuple(AxisMap(values["size"], tuple(sources)) for sources in values["by_expert"]))
    return AxisMap(values["size"], tuple(values["sources"]), tuple(values.get("models", ())))


def _copies(sources: Iterable[Hashable]) -> list[bool]:
    seen: set[Hashable] = set()
    found = []
    for source in sources:
        found.append(source in seen)
        seen.add(source)
    return found


def short(numbers: Sequence[int], most: int = 16) -> str:
    """The beginning of a map, for people."""
    return " ".join(map(str, numbers[:most])) + (" …" if len(numbers) > most else "")
