"""Interpolation: between two layers a new one, their weighted mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.facts import Facts
from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.operators.depth import DepthOperator, layer_map
from lit_recycle.growth.sources import SourceMap


@dataclass(frozen=True)
class Interpolate(DepthOperator):
    """Put a weighted mean of two neighbours between them: L layers become 2 · L − 1.

    Between a dense layer and one of experts stands a copy of the first.

    Args:
        weight: Of the second neighbour.
    """

    how = " (interpolated)"
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.weight < 1:
            raise ValueError(f"weight must lie between 0 and 1, got {self.weight}")

    def layers(self, model: GrowableModel) -> Sequence[int]:
        return [i for i in range(model.num_layers) for _ in range(2)][:-1]

    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        plain = layer_map(model, self.layers(model))
        pairs = ((2 * i + 1, i) for i in range(model.num_layers - 1))
        blends = {
            j: ((i, 1 - self.weight), (i + 1, self.weight))
            for j, i in pairs
            if all(model.size(axis, i) == model.size(axis, i + 1) for axis in (EXPERTS, "F", "I", "S"))
        }
        return SourceMap(plain.layers, plain.num_layers, blends=blends)
