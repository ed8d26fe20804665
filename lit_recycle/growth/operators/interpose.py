"""Interposition: each layer copied in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.operators.depth import DepthOperator, check_counts, grown_length, kept


@dataclass(frozen=True)
class Interpose(DepthOperator):
    """Copy each layer in place: ``0 0 1 1 2 2`` of three layers.

    Args:
        factor: How often each layer stands in the grown model; 2 when nothing is given.
        num_layers: Layers of the grown model instead, over which the copies are spread evenly.
        keep_first: Number of leading layers that are not copied.
        keep_last: Number of trailing layers that are not copied.
    """

    origin = "Beyond Sunk Costs, arXiv 2510.08008"
    factor: int | None = None
    num_layers: int | None = None
    keep_first: int = 0
    keep_last: int = 0

    def __post_init__(self) -> None:
        if self.factor is None and self.num_layers is None:
            object.__setattr__(self, "factor", 2)
        check_counts(self.factor, self.num_layers, keep_first=self.keep_first, keep_last=self.keep_last)

    def layers(self, model: GrowableModel) -> Sequence[int]:
        middle = kept(model, self.keep_first, self.keep_last)
        length = grown_length(model, len(middle), self.factor, self.num_layers)
        copied = (middle[j * len(middle) // length] for j in range(length))
        return *range(middle.start), *copied, *range(middle.stop, model.num_layers)
