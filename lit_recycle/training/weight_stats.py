"""Weight statistics: norms of layers and cosines of copies, from shards, without assembling a matrix.

Tensors come by name, whole or sharded on their first axis; all processes must take part.
Axes: E experts, F inner width, D hidden size, R rows (the first axis of a tensor), L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate

from lit_recycle.growth.native import NATIVE
from lit_recycle.growth.originals import Originals
from lit_recycle.growth.shards import gather

EXPERTS = ("moe.experts.gate_up", "moe.experts.down")
DENSE = ("mlp.gate_up.weight", "mlp.down.weight")


def per_row(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, which maps rows to rows, computed by each process on the rows that it holds.

    Every process gets the results of all rows.
    """
    first = tensors[0]
    if not isinstance(first, DTensor):
        return function(*tensors)
    assert all(p.is_replicate() or p.is_shard(0) for p in first.placements), first.placements
    local = function(*(t.to_local() for t in tensors if isinstance(t, DTensor)))
    shape = torch.Size([first.shape[0], *local.shape[1:]])
    stride = torch.empty(shape, device="meta").stride()
    rows = DTensor.from_local(local, first.device_mesh, first.placements, run_check=False, shape=shape, stride=stride)
    return rows.full_tensor()


def layers_of(tensors: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """The tensors of each layer, by what stands in their names after its number."""
    layers: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        place = NATIVE.parse(name)
        if place.layer is not None:
            layers.setdefault(place.layer, {})[place.suffix] = tensor
    return [layers[i] for i in sorted(layers)]


# --- norms -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def norm_profile(weights: Mapping[str, Tensor]) -> Tensor:
    """The layer-wise weight norms of arXiv 2510.08008, ``[L]`` in float32 (float64 stays).

    Per layer the mean over experts of the mean over (gate, up, down) of ‖W‖_F / √numel; a dense layer counts as one
    expert.
    """
    return torch.stack([_layer_norm(layer) for layer in layers_of(weights)])


def _layer_norm(layer: Mapping[str, Tensor]) -> Tensor:
    if EXPERTS[0] in layer:
        gate_up, down = (layer[name] for name in EXPERTS)
        halves_E2 = per_row(lambda w: _mean_square(w.unflatten(1, (2, -1)), (-2, -1)), gate_up)
        down_E1 = per_row(lambda w: _mean_square(w, (-2, -1)), down).unsqueeze(-1)
        return torch.cat((halves_E2, down_E1), -1).sqrt().mean()
    rows_2F, rows_D = (per_row(lambda w: _mean_square(w, (-1,)), layer[name]) for name in DENSE)
    return torch.stack((*rows_2F.unflatten(0, (2, -1)).mean(-1), rows_D.mean())).sqrt().mean()


def _mean_square(weight: Tensor, axes: tuple[int, ...]) -> Tensor:
    size = math.prod(weight.shape[axis] for axis in axes)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.linalg.vector_norm(weight, dim=axes, dtype=dtype).square() / size


# --- copies and originals --------------------------------------------------------------------------------------------


@torch.no_grad()
def copy_cosines(tensors: Mapping[str, Tensor], originals: Originals) -> dict[str, Tensor]:
    """How near copies are to their originals: ``layers`` and ``experts``, each ``[L]``; without copies no key.

    Args:
        tensors: Weights by name, or what an optimizer keeps of each.
        originals: Who is whose copy.

    Returns:
        ``layers``: cosine of each copied layer over all of its matrices together (gains of norms would drown them);
        ``experts``: mean over the layer's copied experts, each over its three matrices together. NaN for a layer that
        is no copy, or has none; and where a tensor is zero.
    """
    layers, found = layers_of(tensors), {}
    missing = torch.full((), math.nan, device=next(iter(tensors.values())).device)
    if originals.layer_copies:
        found["layers"] = torch.stack(
            [missing if i == j else layer_cosine(layers[j], layers[i]) for j, i in enumerate(originals.layers)]
        )
    copies = [originals.expert_copies(j) for j in range(len(layers))]
    if any(copies):
        found["experts"] = torch.stack(
            [
                expert_cosines(layer, originals.experts[j])[copies[j]].mean() if copies[j] else missing
                for j, layer in enumerate(layers)
            ]
        )
    return found


def expert_cosines(layer: Mapping[str, Tensor], originals: Sequence[int]) -> Tensor:
    """Cosine of each expert with its original, ``[E]``."""
    pairs = ((layer[name], gather(layer[name], 0, originals)) for name in EXPERTS)
    return _cosine(sum(per_row(_dots, *pair) for pair in pairs))  # type: ignore[arg-type]


def layer_cosine(layer: Mapping[str, Tensor], original: Mapping[str, Tensor]) -> Tensor:
    """Cosine of two layers' matrices, a scalar."""
    pairs = ((layer[name], original[name]) for name in layer if layer[name].dim() > 1)
    return _cosine(sum(_whole_dots(*pair) for pair in pairs))  # type: ignore[arg-type]


def _whole_dots(x: Tensor, y: Tensor) -> Tensor:
    """``x·y, x·x, y·y``, ``[3]``, over all entries and all processes."""
    if not isinstance(x, DTensor):
        return _dots(x.flatten().unsqueeze(0), y.flatten().unsqueeze(0)).squeeze(0)
    assert isinstance(y, DTensor) and x.placements == y.placements
    kinds = [Replicate() if p.is_replicate() else Partial() for p in x.placements]
    return DTensor.from_local(
        _whole_dots(x.to_local(), y.to_local()), x.device_mesh, kinds, run_check=False
    ).full_tensor()


def _dots(x: Tensor, y: Tensor) -> Tensor:
    """``x·y, x·x, y·y`` of each row, ``[R, 3]``; as products of matrices, which need no memory for the terms."""
    x, y = x.flatten(1).float(), y.flatten(1).float()
    pairs = ((x, y), (x, x), (y, y))
    return torch.stack([torch.bmm(a.unsqueeze(1), b.unsqueeze(2)).flatten() for a, b in pairs], -1)


def _cosine(dots: Tensor) -> Tensor:
    xy, xx, yy = dots.unbind(-1)
    return xy / (xx.sqrt() * yy.sqrt())
