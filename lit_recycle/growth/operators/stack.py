"""Stacking: the whole block of layers repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.operators.depth import DepthOperator, check_counts, dense_prefix, grown_length, kept


@dataclass(frozen=True)
class Stack(DepthOperator):
    """Repeat the block of layers: ``0 1 2 0 1 2`` of three layers. Kept layers stand in the first or last pass only.

    Args:
        factor: How often each layer stands in the grown model; 2 when nothing is given.
        num_layers: Layers of the grown model instead; the last pass is then cut off.
        keep_first: Number of leading layers that are not copied; when not given the dense ones, for a family whose
            config has dense layers in front only.
        keep_last: Number of trailing layers that are not copied.
    """

    how = " (stack)"
    origin = "G_stack, arXiv 2405.15319"
    factor: int | None = None
    num_layers: int | None = None
    keep_first: int | None = None
    keep_last: int = 0

    def __post_init__(self) -> None:
        if self.factor is None and self.num_layers is None:
            object.__setattr__(self, "factor", 2)
        check_counts(self.factor, self.num_layers, keep_first=self.keep_first or 0, keep_last=self.keep_last)

    def layers(self, model: GrowableModel) -> Sequence[int]:
        first = dense_prefix(model) if self.keep_first is None else self.keep_first
        middle = kept(model, first, self.keep_last)
        length = grown_length(model, len(middle), self.factor, self.num_layers)
        copied = (middle[j % len(middle)] for j in range(length))
        return *range(middle.start), *copied, *range(middle.stop, model.num_layers)

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        prefix = dense_prefix(model) if self.keep_first is None else 0
        said = super().label(model, after)
        return said + (f", the {prefix} dense layers in front stay single" if prefix else "")
