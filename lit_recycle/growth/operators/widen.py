"""Widths grown without a change of the function: inner channels, attention heads, hidden size."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from lit_recycle.growth.facts import Facts
from lit_recycle.growth.operator import Cell, GrowableModel, Operator, times
from lit_recycle.growth.sources import AxisMap, SourceMap
from lit_recycle.growth.treatments import Spread, Treatment


@dataclass(frozen=True, kw_only=True)
class WidthOperator(Operator):
    """A growth along axes that are produced by some tensors and summed over by others.

    Args:
        symmetry_break: Tell copies apart where they are summed: the m copies of an input get the weights (1/m + δ)·w
            with random δ of sum zero and this standard deviation, relative to 1/m. The function stays what it was.
    """

    keeps = "yes"
    symmetry_break: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.symmetry_break < math.inf:
            raise ValueError(f"symmetry_break must be a finite number and not negative, got {self.symmetry_break}")

    @abstractmethod
    def maps(self, model: GrowableModel) -> Mapping[str, AxisMap]:
        """The map of each axis that grows."""

    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        return SourceMap.identity(model.num_layers + model.num_tail_layers, self.maps(model))

    def treatments(self, cell: Cell) -> Sequence[Treatment]:
        if not self.symmetry_break:
            return ()
        summed = {axis for d in cell.place.axes.dimensions if d.summed for axis in d.factors if isinstance(axis, str)}
        return [Spread(axis, self.symmetry_break) for axis in sorted(summed & cell.change.sources.axes.keys())]

    def preserves(self, model: GrowableModel) -> bool:
        return True


def repeated(size: int, target: int) -> AxisMap:
    """All entries again and again: ``0 1 2 0 1`` for three entries and five."""
    return AxisMap(size, tuple(i % size for i in range(target)))


def grown_size(what: str, size: int, factor: int | None, target: int | None) -> int:
    """Raises ``ValueError`` where nothing would grow."""
    if not size:
        raise ValueError(f"the model has no {what} to widen, or none of which all tensors are known by name")
    wanted = target if target is not None else size * (factor or 2)
    if wanted <= size:
        raise ValueError(f"{what} of {size} cannot grow to {wanted}")
    return wanted


def check_size(factor: int | None, size: int | None) -> None:
    if factor is not None and size is not None:
        raise ValueError("give either factor or size")
    if factor is not None and factor < 2:
        raise ValueError(f"factor must be at least 2, got {factor}")


INNER = {"experts": "F", "shared": "S", "dense": "I"}


@dataclass(frozen=True)
class WidenInner(WidthOperator):
    """Grow the inner width of feed-forward networks.

    Args:
        networks: ``experts``, the ``shared`` expert, or the ``dense`` layers.
        factor: How often each channel stands in the grown model; 2 when neither this nor ``size`` is given.
        size: Inner width of the grown model instead.
    """

    origin = "Net2Wider, arXiv 1511.05641"
    axes = "F S I"
    networks: Literal["experts", "shared", "dense"] = "experts"
    factor: int | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.factor, self.size)
        if self.networks not in INNER:
            raise ValueError(f"networks must be one of {', '.join(INNER)}, got {self.networks!r}")

    def maps(self, model: GrowableModel) -> Mapping[str, AxisMap]:
        axis = INNER[self.networks]
        size = max(model.size(axis, layer) for layer in range(model.num_layers))
        return {axis: repeated(size, grown_size(f"inner channels ({self.networks})", size, self.factor, self.size))}

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        axis = INNER[self.networks]
        return f"inner width ({self.networks}) {times(model.size(axis), after.size(axis))}"


@dataclass(frozen=True)
class WidenHeads(WidthOperator):
    """Grow the number of attention heads; the size of a head stays.

    Args:
        factor: How often each query head stands in the grown model.
        kv_heads: Grow the key and value heads as well; otherwise each serves more queries.
    """

    origin = "Net2Wider, arXiv 1511.05641; LEMON, arXiv 2310.07999"
    axes = "H G"
    factor: int = 2
    kv_heads: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.factor, None)

    def maps(self, model: GrowableModel) -> Mapping[str, AxisMap]:
        heads, kv_heads = model.size("H", 0), model.size("G", 0)
        if not (heads and kv_heads):
            raise ValueError("the model has no query heads and key heads to widen")
        group = heads // kv_heads
        # Each copy of a key head gets a whole group of queries: their gradients would not be alike otherwise.
        queries = tuple(g * group + q for g in range(kv_heads) for _ in range(self.factor) for q in range(group))
        found = {"H": AxisMap(heads, queries)}
        if self.kv_heads:
            found["G"] = AxisMap(kv_heads, tuple(g for g in range(kv_heads) for _ in range(self.factor)))
        return found

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        return f"heads ×{self.factor}" + ("" if self.kv_heads else " (queries)")


@dataclass(frozen=True)
class WidenHidden(WidthOperator):
    """Grow the hidden size, the width of the residual stream.

    Args:
        factor: How often each channel stands in the grown model; all equally often, since norms are over all of them.
    """

    origin = "HyperCloning, arXiv 2409.12903"
    axes = "D"
    factor: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.factor, None)

    def maps(self, model: GrowableModel) -> Mapping[str, AxisMap]:
        if "tied embeddings" in model.traits:
            raise ValueError(
                "the hidden size of a model with tied embeddings cannot grow: its one matrix would have to be repeated "
                "as embedding and divided as output layer"
            )
        size = model.size("D")
        return {"D": repeated(size, grown_size("hidden channels", size, self.factor, None))}

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        return f"hidden size ×{self.factor}"
