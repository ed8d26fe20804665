"""Weight statistics: norms of layers and cosines of copies, from shards, without assembling a matrix.

Tensors come by name, whole or sharded on their first axis; all processes must take part.
Axes: E experts, M matrices that are stacked in a tensor, R rows (the first axis of a tensor), L layers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate

from lit_recycle.growth.axes import TensorAxes
from lit_recycle.growth.names import Naming
from lit_recycle.growth.native import NATIVE
from lit_recycle.growth.originals import Originals
from lit_recycle.growth.shards import gather, resharded, strides

MATRICES = {"gate", "up", "down"}


def per_row(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, which maps rows to rows, computed by each process on the rows that it holds.

    Every process gets the results of all rows.
    """
    first = tensors[0]
    if not isinstance(first, DTensor):
        return function(*tensors)
    by_rows = [resharded(t, 0) for t in tensors if isinstance(t, DTensor)]
    first, local = by_rows[0], function(*(t.to_local() for t in by_rows))
    shape = torch.Size([first.shape[0], *local.shape[1:]])
    rows = DTensor.from_local(
        local, first.device_mesh, first.placements, run_check=False, shape=shape, stride=strides(shape)
    )
    return rows.full_tensor()


class Named(NamedTuple):
    """A tensor of a layer, and its axes."""

    tensor: Tensor
    axes: TensorAxes

    @property
    def of_experts(self) -> bool:
        """Whether it holds matrices of routed experts."""
        return self.axes.expert_dimension == 0 and bool(MATRICES & set(self.axes.matrices))


Layer = Mapping[str, Named]


def layers_of(tensors: Mapping[str, Tensor], naming: Naming) -> list[Layer]:
    """The tensors of each layer, by what stands in their names after its number."""
    layers: dict[int, dict[str, Named]] = {}
    for name, tensor in tensors.items():
        place = naming.parse(name)
        if place.layer is not None:
            layers.setdefault(place.layer, {})[place.suffix] = Named(tensor, place.axes)
    return [layers[i] for i in sorted(layers)]


# --- norms -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def norm_profile(weights: Mapping[str, Tensor], naming: Naming = NATIVE) -> Tensor:
    """The layer-wise weight norms of arXiv 2510.08008, ``[L]`` in float32 (float64 stays).

    Per layer the mean over experts of the mean over (gate, up, down) of ‖W‖_F / √numel; a dense layer counts as one
    expert. NaN for a layer of which no such matrix is known.
    """
    return torch.stack([_layer_norm(layer) for layer in layers_of(weights, naming)])


def _layer_norm(layer: Layer) -> Tensor:
    experts = [named for named in layer.values() if named.of_experts]
    dense = [named for named in layer.values() if MATRICES & set(named.axes.matrices) and "S" not in named.axes.names]
    squares = [_mean_squares(named) for named in experts or dense]
    if not squares:
        return torch.full((), math.nan, device=next(iter(layer.values())).tensor.device)
    return torch.cat(squares, -1).sqrt().mean()


def _mean_squares(named: Named) -> Tensor:
    """Mean square of each matrix that is stacked in a tensor, ``[E, M]``; of one without experts ``[1, M]``."""
    axes, stack = named.axes, named.axes.stack
    count = len(axes.matrices)

    def of_rows(rows: Tensor) -> Tensor:
        if stack is None or stack[0] == 0:
            return _mean_square(rows, 1).unsqueeze(1)
        dimension, alternates = stack
        parts = rows.unflatten(dimension, (-1, count) if alternates else (count, -1))
        return _mean_square(parts.movedim(dimension + alternates, 1), 2)

    squares_RM = per_row(of_rows, named.tensor)
    if axes.expert_dimension == 0:
        return squares_RM
    if stack is not None and stack[0] == 0:
        alternates = stack[1]
        parts = squares_RM.squeeze(1).unflatten(0, (-1, count) if alternates else (count, -1))
        return parts.mean(0 if alternates else 1).view(1, count)
    return squares_RM.mean(0, keepdim=True)


def _mean_square(weight: Tensor, lead: int) -> Tensor:
    """Over all but the leading dimensions."""
    flat = weight.flatten(lead) if weight.dim() > lead else weight.unsqueeze(-1)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return torch.linalg.vector_norm(flat, dim=-1, dtype=dtype).square() / flat.shape[-1]


# --- copies and originals --------------------------------------------------------------------------------------------


@torch.no_grad()
def copy_cosines(tensors: Mapping[str, Tensor], originals: Originals, naming: Naming = NATIVE) -> dict[str, Tensor]:
    """How near copies are to their originals: ``layers`` and ``experts``, each ``[L]``; without copies no key.

    Args:
        tensors: Weights by name, or what an optimizer keeps of each.
        originals: Who is whose copy.
        naming: What the tensors are.

    Returns:
        ``layers``: cosine of each copied layer over all of its matrices together (gains of norms would drown them);
        ``experts``: mean over the layer's copied experts, each over its three matrices together. NaN for a layer that
        is no copy, or has none; and where a tensor is zero.
    """
    layers, found = layers_of(tensors, naming), {}
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


def expert_cosines(layer: Layer, originals: Sequence[int]) -> Tensor:
    """Cosine of each expert with its original, ``[E]``."""
    experts = [named.tensor for named in layer.values() if named.of_experts]
    pairs = ((tensor, gather(tensor, 0, originals)) for tensor in experts)
    return _cosine(sum(per_row(_dots, *pair) for pair in pairs))  # type: ignore[arg-type]


def layer_cosine(layer: Layer, original: Layer) -> Tensor:
    """Cosine of two layers' matrices, a scalar."""
    pairs = ((layer[name].tensor, original[name].tensor) for name in layer if layer[name].tensor.dim() > 1)
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
