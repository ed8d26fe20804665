"""Base class of operators that copy layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.facts import Facts
from lit_recycle.growth.operator import Cell, GrowableModel, Operator, times
from lit_recycle.growth.sources import SourceMap
from lit_recycle.growth.treatments import Draw, Treatment, Zero


@dataclass(frozen=True, kw_only=True)
class DepthOperator(Operator):
    """A growth in depth: each grown layer is a copy of one of the model's.

    Args:
        zero_output: Zero the output projections of the copies, so that the growth leaves the function as it was.
    """

    axes = "layers"
    keeps = "with zero_output"
    is_elementwise = True
    how: ClassVar[str] = ""
    """What the label says besides the numbers of layers."""
    zero_output: bool = False

    @abstractmethod
    def layers(self, model: GrowableModel) -> Sequence[int]:
        """The source of each grown layer, without those behind the last one."""

    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        return layer_map(model, self.layers(model))

    def treatments(self, cell: Cell) -> Sequence[Treatment]:
        if not (self.zero_output and cell.is_layer_copy):
            return ()
        if cell.place.axes.scales_residual:
            return (Draw(constant=1.0),)
        return (Zero(),) if cell.place.axes.writes_residual else ()

    def preserves(self, model: GrowableModel) -> bool:
        return self.zero_output and "normalised residual" not in model.traits

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        return f"depth {times(model.num_layers, after.num_layers)}{self.how}"


def layer_map(model: GrowableModel, layers: Sequence[int]) -> SourceMap:
    """The map of a growth in depth; layers behind the last one stay single, at the end."""
    count = model.num_layers
    outside = [i for i in layers if not 0 <= i < count]
    if not layers:
        raise ValueError(f"no layer would be left of {count}")
    if outside:
        raise ValueError(f"layers must be some of 0..{count - 1}, got {list(layers)}")
    tail = range(count, count + model.num_tail_layers)
    return SourceMap((*layers, *tail), count + model.num_tail_layers)


def kept(model: GrowableModel, keep_first: int, keep_last: int) -> range:
    """The layers between the kept ones."""
    if keep_first + keep_last >= model.num_layers:
        raise ValueError(
            f"keep_first {keep_first} and keep_last {keep_last} leave nothing to copy of {model.num_layers} layers"
        )
    return range(keep_first, model.num_layers - keep_last)


def dense_prefix(model: GrowableModel) -> int:
    """Number of leading dense layers that the model's config can only express as leading; 0 where it can do more."""
    if "dense prefix" not in model.traits:
        return 0
    return next((i for i in range(model.num_layers) if model.size(EXPERTS, i)), 0)


def check_counts(factor: int | None, num_layers: int | None, **numbers: int) -> None:
    """Raises ``ValueError`` for arguments that no model can be grown by."""
    if (factor is None) == (num_layers is None):
        raise ValueError("give either factor or num_layers")
    if factor is not None and factor < 2:
        raise ValueError(f"factor must be at least 2, got {factor}")
    for name, number in numbers.items():
        if number < 0:
            raise ValueError(f"{name} must not be negative, got {number}")


def grown_length(model: GrowableModel, copied: int, factor: int | None, num_layers: int | None) -> int:
    """How many layers the copied ones become."""
    if factor is not None:
        return copied * factor
    assert num_layers is not None
    if num_layers < model.num_layers:
        raise ValueError(f"num_layers {num_layers} is less than the model's {model.num_layers}: use DropLayers")
    return num_layers - (model.num_layers - copied)
