"""SOLAR's depth up-scaling: the model twice, without the seam between the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.operators.depth import DepthOperator


@dataclass(frozen=True)
class Solar(DepthOperator):
    """The first L − n layers, then the last L − n: 32 layers and n = 8 make 48.

    Args:
        drop: Number of layers left out on each side of the seam, n.
    """

    how = " (SOLAR)"
    origin = "SOLAR, arXiv 2312.15166"
    drop: int

    def layers(self, model: GrowableModel) -> Sequence[int]:
        if not 0 <= 2 * self.drop < model.num_layers:
            raise ValueError(
                f"drop {self.drop} must lie in 0..{(model.num_layers - 1) // 2} for {model.num_layers} layers"
            )
        return *range(model.num_layers - self.drop), *range(self.drop, model.num_layers)
