"""Branch-Train-Mix: several dense models become one Mixture-of-Experts model, an expert from each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isclose

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.operators.upcycle import Upcycle
from lit_recycle.growth.sources import SourceMap


@dataclass(frozen=True)
class BranchTrainMix(Upcycle):
    """Make routed experts of the networks of several dense models, on disk; all other tensors are averaged.

    Experts come from the models in turn, and from the first one again after the last; the router is drawn at random.
    The models are branches of one: their sizes, vocabularies and families are alike.

    Args:
        num_experts: Routed experts per layer; a multiple of the number of models times ``granularity``.
        shares: Weight of each model, the first being the source of the growth, in the tensors that are averaged.
    """

    origin = "Branch-Train-MiX, arXiv 2403.07816"
    keeps = "no"
    shares: Sequence[float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shares", tuple(float(share) for share in self.shares))
        if len(self.shares) < 2 or min(self.shares) < 0 or not isclose(sum(self.shares), 1.0, abs_tol=1e-6):
            raise ValueError(
                f"shares are weights of two models or more, none negative, that sum to one; got {list(self.shares)}"
            )
        if self.num_experts % (len(self.shares) * self.granularity):
            raise ValueError(
                f"num_experts {self.num_experts} must be a multiple of {len(self.shares)} models times granularity "
                f"{self.granularity}, so that each model gives as many"
            )

    def cuts(self, model: GrowableModel) -> SourceMap:
        """See :class:`Upcycle`; all slices of a model's network, then those of the next model's."""
        plain = super().cuts(model)
        models = tuple(e // self.granularity % len(self.shares) for e in range(self.num_experts))
        maps = tuple(m and replace(m, models=models) for m in plain.axes[EXPERTS])  # type: ignore[union-attr]
        return SourceMap.identity(plain.num_layers, {EXPERTS: maps}, self.shares)

    def preserves(self, model: GrowableModel) -> bool:
        return False

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        return f"{len(self.shares)} models, {super().label(model, after)}"
