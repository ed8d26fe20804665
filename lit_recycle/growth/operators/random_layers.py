"""New layers drawn at random between the old ones: the baseline of every growth in depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_recycle.growth.operator import Cell
from lit_recycle.growth.operators.interpose import Interpose
from lit_recycle.growth.treatments import Draw, Treatment


@dataclass(frozen=True)
class RandomLayers(Interpose):
    """As :class:`Interpose`, but with new layers as at the start of a training run in the places of the copies."""

    is_elementwise = False
    how = " (random)"
    origin = "baseline"

    def treatments(self, cell: Cell) -> Sequence[Treatment]:
        if not cell.is_layer_copy:
            return ()
        return super().treatments(cell) or (initial(cell),)


def initial(cell: Cell) -> Treatment:
    """A tensor as at the start of a training run.

    Matrices are drawn, those that write into the residual stream scaled by 1/√(2L) (Radford et al. 2019); norms are
    one, biases zero.
    """
    place, model = cell.place, cell.change.after
    if not place.axes.known:
        raise ValueError(f"how {place.name} begins is not known: its axes are in no table of the model's family")
    axes = place.axes.cell if cell.expert is not None else place.axes
    if len(axes.dimensions) > 1 or "router" in axes.matrices:
        depth = (2 * model.num_layers) ** -0.5 if axes.writes_residual else 1.0
        return Draw(model.init_std * depth)
    zero = place.suffix.endswith("bias") or "balance" in axes.matrices
    return Draw(constant=0.0) if zero else Draw(constant=1.0)
