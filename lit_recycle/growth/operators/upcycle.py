"""Dense to Mixture-of-Experts: feed-forward networks become experts behind a new router."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.facts import Facts
from lit_recycle.growth.names import Place
from lit_recycle.growth.operator import Cell, Change, GrowableModel, Operator, Target
from lit_recycle.growth.sources import AxisMap, SourceMap
from lit_recycle.growth.treatments import Draw, Redraw, Scale, Treatment, Zero


@dataclass(frozen=True)
class Upcycle(Operator):
    """Make routed experts of dense feed-forward networks, behind a router that is drawn at random.

    Every expert begins as the whole network, or with a ``granularity`` of G as one G-th of its inner channels, whose
    outputs are multiplied by G. The weights of a token's experts sum to one, so without a redraw the function is what
    it was: with G of one for any router, with more where a token visits as many experts of each slice, which rows of
    the router that are alike for all slices of a copy bring about.

    Args:
        num_experts: Routed experts per layer; a multiple of ``granularity``.
        top_k: Experts per token; a multiple of ``granularity``.
        granularity: Number of slices that a network is cut into, G.
        in_layers: Indices of the layers that get experts; all dense layers when not given.
        redraw: Share of each expert's inner channels that is drawn anew (Drop-Upcycling, arXiv 2502.19261: 0.5).
    """

    origin = "Sparse Upcycling, arXiv 2212.05055; granular: arXiv 2410.07524; Drop-Upcycling, arXiv 2502.19261"
    keeps = "without redraw"
    axes = "E F"
    num_experts: int
    top_k: int = 2
    granularity: int = 1
    in_layers: Sequence[int] | None = None
    redraw: float = 0.0

    def __post_init__(self) -> None:
        if self.in_layers is not None:
            object.__setattr__(self, "in_layers", tuple(self.in_layers))
        if not 1 <= self.top_k <= self.num_experts:
            raise ValueError(f"top_k must lie in 1..num_experts, got {self.top_k} of {self.num_experts}")
        if self.granularity < 1 or self.num_experts % self.granularity or self.top_k % self.granularity:
            raise ValueError(
                f"granularity {self.granularity} must divide num_experts {self.num_experts} and top_k {self.top_k}"
            )
        if not 0 <= self.redraw <= 1:
            raise ValueError(f"redraw is a share of channels in 0..1, got {self.redraw}")

    def chosen(self, model: GrowableModel) -> list[int]:
        """The layers that get experts.

        Raises:
            ValueError: If they are not dense, or their width does not divide into slices.
        """
        dense = [i for i in range(model.num_layers) if model.size("I", i)]
        if not dense:
            raise ValueError("the model has no dense layers to make experts of, or their tensors are not known by name")
        chosen = dense if self.in_layers is None else sorted({*self.in_layers})
        if not chosen or not {*chosen} <= {*dense}:
            raise ValueError(f"in_layers must be some of the dense layers {dense}, got {chosen}")
        for layer in chosen:
            if (width := model.size("I", layer)) % self.granularity:
                raise ValueError(
                    f"granularity {self.granularity} does not divide the inner width {width} of layer {layer}"
                )
        return chosen

    def sources(self, model: GrowableModel, facts: Facts) -> SourceMap:
        return self.cuts(model)

    def cuts(self, model: GrowableModel) -> SourceMap:
        """The map, which follows from shapes alone."""
        slices = AxisMap(self.granularity, tuple(e % self.granularity for e in range(self.num_experts)))
        chosen, count = self.chosen(model), model.num_layers + model.num_tail_layers
        return SourceMap.identity(count, {EXPERTS: tuple(slices if i in chosen else None for i in range(count))})

    def resized(self, model: GrowableModel, sources: SourceMap) -> GrowableModel:
        return model.upcycled(self.chosen(model), self.num_experts, self.top_k, self.granularity)

    def targets(self, place: Place, change: Change) -> Iterable[Target]:
        assert place.layer is not None
        if change.sources.experts(place.layer) is None:
            return (Target(place),)
        return change.before.routed_targets(place, change.after)

    def treatments(self, cell: Cell) -> Sequence[Treatment]:
        place = cell.place
        if cell.change.sources.experts(place.layer) is None:
            return ()
        if not place.is_routed:  # a shared expert that the family demands begins with an output of zero
            new = Zero() if place.axes.writes_residual else Draw(cell.change.after.init_std)
            return (new,) if cell.is_new else ()
        if "router" in place.axes.matrices:
            return (Draw(cell.change.after.init_std, tied=self.granularity),)
        if "balance" in place.axes.matrices:
            return (Draw(constant=0.0),)
        sliced: list[Treatment] = [Scale(float(self.granularity))] if "down" in place.axes.matrices else []
        sliced = sliced if self.granularity > 1 else []
        return [*sliced, Redraw("F", self.redraw)] if self.redraw else sliced

    def preserves(self, model: GrowableModel) -> bool:
        return self.redraw == 0 and "weights of experts sum to one" in self.resized(model, self.cuts(model)).traits

    def label(self, model: GrowableModel, after: GrowableModel) -> str:
        cut = f", each one {self.granularity}th of the network" if self.granularity > 1 else ""
        return f"dense → {self.num_experts} experts, {self.top_k} per token{cut}"
