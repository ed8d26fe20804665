"""Norms of experts and of inner channels, from whole or sharded tensors, for operators that choose by them.

Axes: E experts, F inner channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.facts import NORMS, Facts, PerLayer, entries
from lit_recycle.growth.names import Place
from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.shards import resharded, shard_dimension, strides

FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def weight_facts(
    model: GrowableModel, tensors: Mapping[str, Tensor], more: Mapping[str, Callable[[], PerLayer]] | None = None
) -> Facts:
    """What weights tell: ``norm`` of each expert, ``channel_norm_F``, ``_S`` and ``_I`` of each inner channel.

    Args:
        model: The model.
        tensors: Its weights by name; all processes must take part where they are sharded.
        more: Other facts, as a run knows them.
    """

    def grown(plan: GrowthPlan) -> Mapping[str, Callable[[], PerLayer]]:
        return {name: partial(grown_norms, plan, tensors, axis) for name, axis in NORMS.items()}

    known = {name: partial(norms, model, tensors, axis) for name, axis in NORMS.items()}
    return Facts({**known, **(more or {})}, "of a checkpoint" if more is None else "in this run", grown)


def norms(model: GrowableModel, tensors: Mapping[str, Tensor], axis: str) -> PerLayer:
    """Euclidean norm over all matrices of each entry of an axis, by layer; inside experts one expert after another.

    Raises:
        ValueError: For weights that are packed in a type of their own, which would have to be unpacked.
    """
    counted = (name for name in tensors if _counts(model.naming.parse(name), axis))
    return _norms(model, ((name, tensors[name]) for name in counted), axis)


def grown_norms(plan: GrowthPlan, tensors: Mapping[str, Tensor], axis: str) -> PerLayer:
    """The same of the grown model, of which no more than a tensor is held at a time."""
    return _norms(plan.after, grow_tensors(plan, MappingProxyType(tensors)), axis)


def _counts(place: Place, axis: str) -> bool:
    has = axis in place.axes.names or (axis == EXPERTS and place.expert is not None)
    return place.layer is not None and has and not {"gate", "up", "down"}.isdisjoint(place.axes.matrices)


def _norms(model: GrowableModel, tensors: Iterable[tuple[str, Tensor]], axis: str) -> PerLayer:
    counts = [entries(model, axis, i) for i in range(model.num_layers + model.num_tail_layers)]
    layers = [torch.zeros(count, dtype=torch.float64) for count in counts]
    for name, tensor in tensors:
        place = model.naming.parse(name)
        if not _counts(place, axis):
            continue
        if tensor.dtype not in FLOATS:
            packed = str(tensor.dtype).removeprefix("torch.")
            raise ValueError(
                f"{name} is packed as {packed}, and norms of packed numbers say nothing: convert the folder with "
                "`lit-recycle dequantize` first, or do not choose by norm"
            )
        assert place.layer is not None
        if axis == EXPERTS and place.expert is not None:
            layers[place.layer][place.expert] += tensor.double().square().sum()
        else:
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
