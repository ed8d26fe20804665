"""Masks of pruned weights: which ones are held at zero, chosen by magnitude, and grown as one more state by name.

A mask is a ``uint8`` tensor of its parameter's shape, one where a weight is pruned. Sharded ones are sharded likewise.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_recycle.growth.names import Place
from lit_recycle.growth.optimizer import grow_optimizer_state
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.shards import local_part, rewrapped, shard_dimension, window

KEY = "pruned"
"""The kind of state that a mask is: proportional to no power of the gradient."""
Masks = dict[str, Tensor]
"""By parameter name."""


def is_prunable(place: Place, shape: torch.Size) -> bool:
    """Whether a tensor is a matrix of a layer, or those of its experts, and no router."""
    matrix = len(place.axes.cell.dimensions) == 2 and min(shape[-2:], default=0) > 1
    return place.layer is not None and place.axes.known and matrix and "router" not in place.axes.matrices


@torch.no_grad()
def pruned(place: Place, weight: Tensor, mask: Tensor | None, sparsity: float) -> Tensor:
    """A mask with the smallest weights of a matrix in it, ⌊sparsity · size⌋ of each expert's or of the whole.

    What is pruned stays so. Of weights that are alike the first are taken, so that processes agree; where they hold
    parts of matrices, each puts together one matrix at a time.
    """
    dimension = place.axes.expert_dimension
    if isinstance(weight, DTensor):
        if dimension is None or shard_dimension(weight) not in (None, dimension):
            whole = None if mask is None else _whole(mask)
            found = _of_parts(weight.full_tensor(), whole, dimension, sparsity)[window(weight)]
            return rewrapped(found.clone(), weight, weight.shape)
        held = None if mask is None else local_part(mask)
        return rewrapped(_of_parts(weight.to_local(), held, dimension, sparsity), weight, weight.shape)
    return _of_parts(weight, mask, dimension, sparsity)


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _of_parts(weight: Tensor, mask: Tensor | None, dimension: int | None, sparsity: float) -> Tensor:
    size = weight.abs().float() if mask is None else weight.abs().float().masked_fill_(mask.bool(), -1.0)
    parts = size.unsqueeze(0) if dimension is None else size.movedim(dimension, 0)
    found = torch.zeros_like(parts, dtype=torch.uint8)
    for part, target in zip(parts, found, strict=True):
        count = int(sparsity * part.numel())
        chosen = torch.zeros(part.numel(), dtype=torch.uint8, device=part.device)
        chosen[part.flatten().argsort(stable=True)[:count]] = 1
        target.copy_(chosen.view_as(part))
    found = found[0] if dimension is None else found.movedim(0, dimension).contiguous()
    return found if mask is None else found | mask


def grow_masks(plan: GrowthPlan, masks: Mapping[str, Tensor]) -> Masks:
    """Masks of the grown model: copies have their source's, what is new or drawn anew has nothing pruned."""
    grown = grow_optimizer_state(plan, {n: {KEY: mask} for n, mask in masks.items()}, "carry", "the masks")
    naming = plan.after.naming
    found = {name: state[KEY] for name, state in grown.items()}
    return {name: mask for name, mask in found.items() if is_prunable(naming.parse(name), mask.shape)}


@torch.no_grad()
def apply_masks(weights: Mapping[str, Tensor], masks: Mapping[str, Tensor]) -> None:
    """Set what is pruned to zero, in place."""
    for name, mask in masks.items():
        local_part(weights[name]).masked_fill_(local_part(mask).bool(), 0)
