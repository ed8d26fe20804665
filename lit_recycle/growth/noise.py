"""Noise on copied experts: it depends on a key and on the values alone, so that a growth is the same wherever it is."""

from __future__ import annotations

import torch
from torch import Tensor

from lit_recycle.growth.names import Place
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.seeding import generator_of

BLOCK = 1 << 18
"""Values that noise is drawn for at once; a part of what the noise is, not to be changed."""


def disturb(plan: GrowthPlan, place: Place, expert: int, values: Tensor) -> Tensor:
    """Add to a copied expert's tensor, in place, the noise that the plan has for it; returns it."""
    matrices = place.role.matrices
    if plan.noise > 0 and matrices:
        count = len(matrices)
        parts = [values[..., i::count] for i in range(count)] if place.role.interleaved else values.chunk(count)
        for matrix, part in zip(matrices, parts, strict=True):
            _add_noise(plan, (plan.seed, plan.event, place.layer, matrix, expert), part)
    return values


def _add_noise(plan: GrowthPlan, key: tuple[object, ...], values: Tensor) -> None:
    """Noise that depends on the key and on the values alone: no shard, no order of draws, no device enters.

    Drawn in float32 on the CPU, block by block, so that a matrix of any size needs little memory beside its own and
    its blocks stay in the cache.
    """
    generator = generator_of(*key)
    flat = values.reshape(-1)  # a view, unless the matrix is interleaved with another
    scale = plan.noise * _deviation(flat)
    epsilon = torch.empty(min(BLOCK, flat.numel()), dtype=torch.float32)
    for block in flat.split(BLOCK):
        noise = epsilon[: block.numel()].normal_(generator=generator).mul_(scale).to(block.device)
        block.copy_(noise.to(torch.promote_types(block.dtype, torch.float32)).add_(block))
    if flat.data_ptr() != values.data_ptr():
        values.copy_(flat.view_as(values))


def _deviation(flat: Tensor) -> float:
    """Standard deviation, summed in float64, where the order of summation is lost when rounding to float32."""
    if flat.numel() == 0:
        return 0.0
    pivot = flat[0].double()  # so that values that are all alike have a deviation of exactly zero
    total = square = torch.zeros((), dtype=torch.float64, device=flat.device)
    for block in flat.split(BLOCK):
        distance = block.double() - pivot
        total, square = total + distance.sum(), square + torch.dot(distance, distance)
    variance = square / flat.numel() - (total / flat.numel()).square()
    return variance.clamp(min=0).sqrt().float().item()
