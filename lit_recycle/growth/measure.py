"""Norms of experts and of inner channels, from whole or sharded tensors, for operators that choose by them.

Axes: E experts, F inner channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.facts import CHANNELS, Facts, PerLayer, entries
from lit_recycle.growth.names import Place
from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.shards import resharded, shard_dimension, strides


def weight_facts(
    model: GrowableModel, tensors: Mapping[str, Tensor], more: Mapping[str, Callable[[], PerLayer]] | None = None
) -> Facts:
    """What weights tell: ``norm`` of each expert, ``channel_norm_F``, ``_S`` and ``_I`` of each inner channel.

    Args:
        model: The model.
        tensors: Its weights by name; all processes must take part where they are sharded.
        more: Other facts, as a run knows them.
    """

    def known(
        model: GrowableModel, tensors: Callable[[], Iterable[tuple[str, Tensor]]]
    ) -> dict[str, Callable[[], PerLayer]]:
        axes = {"norm": EXPERTS} | {f"channel_norm_{axis}": axis for axis in CHANNELS}
        return {name: lambda axis=axis: norms(model, tensors(), axis) for name, axis in axes.items()}  # type: ignore[misc]

    def grown(plan: GrowthPlan) -> Mapping[str, Callable[[], PerLayer]]:
        return known(plan.after, lambda: grow_tensors(plan, dict(tensors)))  # one at a time

    where = "of a checkpoint" if more is None else "in this run"
    return Facts(known(model, tensors.items) | dict(more or {}), where, grown)


def norms(model: GrowableModel, tensors: Iterable[tuple[str, Tensor]], axis: str) -> PerLayer:
    """Euclidean norm over all matrices of each entry of an axis, by layer; inside experts one expert after another."""
    layers = [torch.zeros(entries(model, axis, i), dtype=torch.float64) for i in range(model.num_layers)]
    for name, tensor in tensors:
        place = model.naming.parse(name)
        if place.layer is not None and axis in place.axes.names and set(place.axes.matrices) & {"gate", "up", "down"}:
            found = squares(place, tensor, axis)
            start = (place.expert or 0) * len(found)
            layers[place.layer][start : start + len(found)] += found
    return [layer.sqrt().tolist() for layer in layers]


@torch.no_grad()
def squares(place: Place, tensor: Tensor, axis: str) -> Tensor:
    """Sum of squares of each entry of an axis of a tensor, float64 on the CPU, the same on all processes.

    Of an axis inside experts, in a tensor of them all, one expert after the other.
    """
    i, dimension = next((i, d) for i, d in enumerate(place.axes.dimensions) if axis in d.factors)
    kept = sorted({i, *(j for j in [place.axes.expert_dimension] if j is not None)})
    others = [j for j in range(tensor.dim()) if j not in kept]
    if isinstance(tensor, DTensor):
        if shard_dimension(tensor) not in (None, *kept):
            tensor = resharded(tensor, i)
        per_index = _all_entries(_sum_of_squares(tensor.to_local(), others), tensor, kept)
    else:
        per_index = _sum_of_squares(tensor, others)
    rows = per_index.movedim(kept.index(i), -1).reshape(-1, tensor.shape[i])
    stacked = next((len(f) for f in dimension.factors if isinstance(f, tuple)), 1)
    if stacked > 1:
        outer_first = isinstance(dimension.factors[0], tuple)
        rows = rows.unflatten(1, (stacked, -1) if outer_first else (-1, stacked)).sum(1 if outer_first else 2)
    return rows.flatten().cpu()


def _all_entries(local: Tensor, tensor: DTensor, kept: list[int]) -> Tensor:
    """Numbers for all indices of some dimensions, from those of this process."""
    cut = shard_dimension(tensor)
    if cut is None:
        return local
    placements = [p if p.is_replicate() else Shard(kept.index(cut)) for p in tensor.placements]
    shape = torch.Size(tensor.shape[j] for j in kept)
    return DTensor.from_local(
        local, tensor.device_mesh, placements, run_check=False, shape=shape, stride=strides(shape)
    ).full_tensor()


def _sum_of_squares(tensor: Tensor, dimensions: list[int]) -> Tensor:
    return tensor.double().square().sum(dimensions) if dimensions else tensor.double().square()
