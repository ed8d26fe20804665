"""Layers written out: any map of layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.operators.depth import DepthOperator


@dataclass(frozen=True)
class Layers(DepthOperator):
    """Name the source of every layer of the grown model; a layer that is named nowhere is dropped.

    Args:
        sequence: Index of the source of each grown layer.
    """

    how = " (map)"
    sequence: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sequence", tuple(self.sequence))

    def layers(self, model: GrowableModel) -> Sequence[int]:
        return self.sequence
