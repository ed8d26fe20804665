"""Middle stacking: a block of layers from the middle, repeated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.operators.depth import DepthOperator


@dataclass(frozen=True)
class Middle(DepthOperator):
    """Repeat the block of layers in the middle: ``0 1 2 1 2 3`` of four layers and a block of two.

    Args:
        block: Number of layers that are repeated.
        times: How often the block is added.
    """

    how = " (middle)"
    origin = "LIDAS, arXiv 2512.08819"
    block: int
    times: int = 1

    def __post_init__(self) -> None:
        if self.block < 1 or self.times < 1:
            raise ValueError(f"block and times must be at least 1, got {self.block} and {self.times}")

    def layers(self, model: GrowableModel) -> Sequence[int]:
        if self.block > model.num_layers:
            raise ValueError(f"block {self.block} is more than the model's {model.num_layers} layers")
        start = (model.num_layers - self.block) // 2
        block = range(start, start + self.block)
        return *range(start), *(i for _ in range(1 + self.times) for i in block), *range(block.stop, model.num_layers)
