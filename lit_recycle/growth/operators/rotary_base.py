"""Another base of the rotary positions, for longer samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lit_recycle.growth.facts import Facts
from lit_recycle.growth.operator import GrowableModel, Operator
from lit_recycle.growth.sources import SourceMap


@dataclass(frozen=True)
class RotaryBase(Operator):
    """Change the base of the rotary positions, as for longer samples: a larger one turns them more slowly.

    No tensor changes. What else a model says of its positions (a scaling as Llama 3.1's or YaRN's, the part of a head
    that is rotated) stays, and is reckoned from the new base. Models with several bases, one for each kind of layer,
    are refused.

    Args:
        theta: The new base, ``rope_theta``.
    """

    axes = "layers"
    is_elementwise = True
    origin = "ABF: Effective Long-Context Scaling of Foundation Models, arXiv 2309.16039"
    theta: float

    def __post_init__(self) -> None:
        if not 0 < self.theta < math.inf:
            raise ValueError(f"theta must be a positive number, got {self.theta}")

    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        return SourceMap.identity(model.num_layers + model.num_tail_layers)

    def resized(self, model: GrowableModel, sources: SourceMap) -> GrowableModel:
        return model.with_rope_theta(self.theta)

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        return f"rope_theta {self.theta:,.10g}"

    def preserves(self, model: GrowableModel) -> bool:
        return model.with_rope_theta(self.theta) == model
