"""Shape of a model in training: what a growth must know of it, and what it costs. No torch.

A model of one's own describes itself by a dataclass that inherits from :class:`TableShape`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.names import Naming, Place
from lit_recycle.growth.operator import GrowableModel, Target
from lit_recycle.growth.sources import AXIS_NAMES, AxisMap, LayerMaps, SourceMap

CHINCHILLA_TOKENS_PER_PARAMETER = 20


@runtime_checkable
class Shape(GrowableModel, Protocol):
    """A model that a run trains and grows."""

    def num_params(self) -> int:
        """Number of parameters, all experts counted."""

    def num_active_params(self) -> int:
        """Number of parameters that one token meets."""

    def num_flops_per_token(self, seq_len: int) -> int:
        """FLOPs of one training token, forward and backward."""

    def to_dict(self) -> dict[str, Any]:
        """In plain types, as a checkpoint keeps it."""


class Counted(Protocol):
    """What has a number of active parameters: a shape, or a model's config."""

    def num_active_params(self) -> int: ...


def chinchilla_flops(shape: Counted) -> int:
    """FLOPs of compute-optimal training: F_c = 6·N_a·20·N_a for N_a active parameters (arXiv 2510.08008)."""
    active = shape.num_active_params()
    return 6 * active * CHINCHILLA_TOKENS_PER_PARAMETER * active


def experts_by_layer(shape: GrowableModel) -> list[int]:
    """Routed experts of each layer, 0 where it has none."""
    return [shape.size(EXPERTS, layer) for layer in range(shape.num_layers)]


def sizes(shape: Shape) -> dict[str, Any]:
    """What is told of a shape, in numbers; a record of a growth keeps it, and nothing is worked out twice."""
    experts = experts_by_layer(shape)
    return {
        "layers": shape.num_layers,
        "experts": max(experts, default=0),
        "experts_by_layer": experts,
        "top_k": shape.top_k if any(experts) else 0,
        "params": shape.num_params(),
        "active_params": shape.num_active_params(),
        **{name: size for axis, name in AXIS_NAMES.items() if axis != EXPERTS and (size := shape.size(axis))},
    }


def one_size(axis: str, maps: AxisMap | LayerMaps) -> int:
    """The size that an axis has in all layers after a growth.

    Raises:
        ValueError: For layers that would have different sizes.
    """
    each = (maps,) if isinstance(maps, AxisMap) else maps
    found = sorted({m.grown_size for m in each if m is not None})
    if len(found) != 1:
        raise ValueError(f"all layers of this model have the same number of {axis}, and would have {found}")
    return found[0]


class TableShape:
    """Base of shapes that are frozen dataclasses: a table of axes, and the field that holds each axis' size.

    Layers are alike, and none has experts that are routed; a model that is richer writes the methods itself.
    """

    naming: ClassVar[Naming]
    """Names and axes of the tensors."""
    fields: ClassVar[Mapping[str, str]] = {}
    """The dataclass' field for each axis that may grow; ``L`` stands for the layers."""
    num_tail_layers = 0
    top_k = 0
    init_std = 0.02
    traits: frozenset[str] = frozenset()

    @property
    def num_layers(self) -> int:
        return getattr(self, self._field("L"))

    def size(self, axis: str, layer: int | None = None) -> int:
        """See :class:`GrowableModel`."""
        return getattr(self, self._field(axis)) if axis in self.fields else 0

    def _field(self, axis: str) -> str:
        """The dataclass' field that holds an axis' size."""
        owner, named = type(self).__name__, self.fields.get(axis)
        if named is None:
            raise ValueError(f"{owner}.fields must name the field of the number of layers, as in {{'L': 'num_layers'}}")
        if not hasattr(self, named):
            raise ValueError(f"{owner}.fields names {named!r} for {axis}, and {owner} has no such field")
        return named

    def resized(self, sources: SourceMap, top_k: int | None = None) -> Self:
        """See :class:`GrowableModel`."""
        lacking = [AXIS_NAMES.get(axis, axis) for axis in sources.axes if axis not in self.fields]
        if lacking:
            raise ValueError(f"{type(self).__name__}.fields names no field for {', '.join(lacking)}")
        changes = {self._field("L"): len(sources.layers)}
        changes |= {self._field(axis): one_size(axis, maps) for axis, maps in sources.axes.items()}
        return replace(self, **changes)  # type: ignore[type-var]  # a subclass is a dataclass

    def upcycled(self, layers: Sequence[int], num_experts: int, top_k: int, granularity: int) -> Self:
        """See :class:`GrowableModel`."""
        raise ValueError(f"{type(self).__name__} says no way to give its layers experts")

    def with_rope_theta(self, theta: float) -> Self:
        """See :class:`GrowableModel`."""
        raise ValueError(f"{type(self).__name__} says no base of rotary positions")

    def routed_targets(self, place: Place, after: Any) -> Iterable[Target]:
        """See :class:`GrowableModel`."""
        raise AssertionError("no layer of this model gets experts")

    def num_params(self) -> int:
        raise NotImplementedError(f"{type(self).__name__}.num_params: the number of parameters, from the fields")

    def num_active_params(self) -> int:
        """See :class:`Shape`."""
        return self.num_params()

    def num_flops_per_token(self, seq_len: int) -> int:
        """Six per parameter (Kaplan et al. 2020); attention's scores and values are not counted."""
        return 6 * self.num_active_params()

    def to_dict(self) -> dict[str, Any]:
        """See :class:`Shape`."""
        return asdict(self)  # type: ignore[call-overload]
