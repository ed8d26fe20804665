"""Operator base class, and what it may know of a model. No torch.

See ``docs/write-an-operator.md`` for a complete example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lit_recycle.growth.facts import Facts
from lit_recycle.growth.names import Naming, Place
from lit_recycle.growth.sources import AxisMap, SourceMap
from lit_recycle.growth.treatments import Treatment


class Target(NamedTuple):
    """A tensor of the grown model.

    ``shape`` is given for a tensor that has no source, and is made by the operator's treatments alone.
    """

    place: Place
    shape: tuple[int, ...] | None = None


@runtime_checkable
class GrowableModel(Protocol):
    """A model as far as a growth must know it: named tensors and sizes, no weights."""

    @property
    def naming(self) -> Naming:
        """Names and axes of its tensors."""

    @property
    def num_layers(self) -> int:
        """Layers that a growth in depth may copy."""

    @property
    def num_tail_layers(self) -> int:
        """Layers behind them that always stay single: those for multi-token prediction."""

    @property
    def top_k(self) -> int:
        """Routed experts per token."""

    @property
    def init_std(self) -> float:
        """Standard deviation of new matrices."""

    @property
    def traits(self) -> frozenset[str]:
        """What operators must know besides sizes; see :data:`TRAITS`."""

    def size(self, axis: str, layer: int | None = None) -> int:
        """Entries of a named axis in a layer (outside of the layers when not given); 0 where there is no such axis."""

    def resized(self, sources: SourceMap, top_k: int | None = None) -> GrowableModel:
        """The model after a growth along a map.

        Args:
            sources: The map.
            top_k: Experts per token, where they change.

        Raises:
            ValueError: For a shape that the model cannot have.
        """

    def upcycled(self, layers: Sequence[int], num_experts: int, top_k: int, granularity: int) -> GrowableModel:
        """The model after some of its dense layers got experts, slices of their networks.

        Raises:
            ValueError: For a model that cannot have such layers.
        """

    def with_rope_theta(self, theta: float) -> GrowableModel:
        """The model with another base of its rotary positions.

        Raises:
            ValueError: For a model that has none, or several.
        """

    def routed_targets(self, place: Place, after: Any) -> Iterable[Target]:
        """What a tensor of a dense layer becomes when the layer gets experts as in ``after``."""


TRAITS = {
    "grouped routing": "experts are chosen from groups of neighbours: only whole groups may be added",
    "softmax bias": "a balancing bias is added to scores that sum to one: shares shrink when experts are duplicated",
    "two experts": "the router always takes two experts",
    "tied embeddings": "the output layer is the embedding matrix",
    "full-width qk norm": "queries and keys are normalised over all heads together",
    "dense prefix": "the config can only make leading layers dense",
    "weights of experts sum to one": "the output of routed experts is a weighted mean",
    "scores add up": "the scores of experts are not made to sum to one: copies add up unless their outputs shrink",
    "normalised residual": "the residual stream is normalised: a layer without output is no identity",
}


class Change(NamedTuple):
    """A model before and after an operator, and the map between the two."""

    before: GrowableModel
    after: GrowableModel
    sources: SourceMap


class Cell(NamedTuple):
    """One expert's part of a grown tensor, or a tensor without experts.

    Args:
        change: The growth.
        place: The tensor.
        expert: The expert; None for a tensor without experts.
        is_new: The tensor has no source.
    """

    change: Change
    place: Place
    expert: int | None
    is_new: bool = False

    @property
    def is_layer_copy(self) -> bool:
        return self.place.layer is not None and self.change.sources.layer_copies[self.place.layer]

    @property
    def experts(self) -> AxisMap | None:
        """The map of the experts of its layer; None where they stay as they are."""
        mapped = None if self.expert is None else self.change.sources.experts(self.place.layer)
        return None if mapped is None or mapped.is_identity else mapped

    @property
    def is_expert_copy(self) -> bool:
        return self.expert is not None and self.experts is not None and self.experts.copies[self.expert]


class Operator(ABC):
    """One growth of a model. Subclasses are frozen dataclasses, whose fields are the keys of a configuration.

    The map says where each layer and each entry of an axis comes from; by it alone weights and the optimizer's state
    are copied and scaled (see :mod:`lit_recycle.growth.engine`). Treatments say what else is done, to copies mostly.

    What stands here besides methods bears no annotation: jsonargparse evaluates those of a base class with the names
    of the subclass's module, and checks no type of any field where that fails.
    """

    origin = ""
    """Where it was described: a paper."""
    axes = ""
    """What it grows: ``layers``, or letters of :mod:`lit_recycle.growth.axes`."""
    keeps = "no"
    """Whether the grown model computes what the model did: ``yes``, ``no``, or on which condition."""
    is_elementwise = False
    """Whether it maps layers alone and treats a tensor as a whole: then flat slices of tensors can be grown as such."""
    needs = ""
    """What it must know of the weights or the run; empty if the map follows from shapes alone."""

    @property
    def asks(self) -> Sequence[str]:
        """The facts that it asks for."""
        return ()

    @abstractmethod
    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        """The map for a model.

        Raises:
            ValueError: If the model cannot be grown in this way.
        """

    @abstractmethod
    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        """A few words for people, as in ``depth × 2``."""

    def resized(self, model: GrowableModel, sources: SourceMap) -> GrowableModel:
        """The model after the growth."""
        return model.resized(sources)

    def targets(self, place: Place, change: Change) -> Iterable[Target]:
        """The tensors that a tensor of the source becomes, still in the source's layer; usually itself."""
        return (Target(place),)

    def treatments(self, cell: Cell) -> Sequence[Treatment]:
        """What is done to a part of a grown tensor after it was copied and scaled by the map, in order."""
        return ()

    def gradual(self, times: int) -> Sequence[Operator]:
        """Itself in so many parts, each of which goes an equal part of the way.

        Raises:
            ValueError: If it is done at once or not at all.
        """
        raise ValueError(f"{type(self).__name__} is done at once: only what shrinks to a size is spread over events")

    def preserves(self, model: GrowableModel) -> bool:
        """Whether the grown model computes what the model did, up to rounding."""
        return False

    def to_dict(self) -> dict[str, Any]:
        """As in a YAML file: the class and its arguments, in plain types."""
        own = type(self)
        values = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return {"class_path": f"{own.__module__}.{own.__qualname__}", "init_args": plain}


def times(before: int, after: int) -> str:
    """``×2`` for a multiple, ``3 → 5`` for any other growth."""
    return f"×{after // before}" if before and after > before and after % before == 0 else f"{before} → {after}"
