"""LLaMA-Pro's block expansion: a copy without output after each n-th layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.operators.depth import DepthOperator


@dataclass(frozen=True)
class InsertEvery(DepthOperator):
    """Insert a copy after each n-th layer: ``0 1 1 2 3 3`` of four layers and n = 2.

    Args:
        n: Number of layers between two copies.
        zero_output: Zero the output projections of the copies, which leaves the function as it was.
    """

    how = " (every n-th layer)"
    origin = "LLaMA-Pro, arXiv 2401.02415"
    n: int
    zero_output: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n must be at least 1, got {self.n}")

    def layers(self, model: GrowableModel) -> Sequence[int]:
        if self.n > model.num_layers:
            raise ValueError(f"n {self.n} is more than the model's {model.num_layers} layers: nothing would be copied")
        return [i for i in range(model.num_layers) for _ in range(2 if (i + 1) % self.n == 0 else 1)]
