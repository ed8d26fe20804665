"""Carries a plan out on named tensors: gather along layers, gather along experts, then treat the copies.

It knows nothing of modules, strategies or files. Sharded tensors (``DTensor``) are grown shard by shard.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, MutableMapping
from typing import TypeVar

import torch
from torch import Tensor

from lit_recycle.growth.names import Naming, Place
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.shards import ExpertRows, gather_experts

T = TypeVar("T")
BLOCK = 1 << 18
"""Values that noise is drawn for at once; a part of what the noise is, not to be changed."""


def grow_tensors(
    plan: GrowthPlan, naming: Naming, tensors: MutableMapping[str, Tensor]
) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of the grown model, one at a time; see :func:`grow_tensor` and :func:`each_source`."""
    for place, source in each_source(plan, naming, tensors):
        yield place.name, grow_tensor(plan, place, source)


def each_source(plan: GrowthPlan, naming: Naming, sources: MutableMapping[str, T]) -> Iterator[tuple[Place, T]]:
    """Each place of the grown model with what stands at its source; a source leaves ``sources`` after its last use."""
    places = list(naming.grown(plan, sources))
    uses = Counter(place.source(plan).name for place in places)
    for place in places:
        name = place.source(plan).name
        uses[name] -= 1
        yield place, sources[name] if uses[name] else sources.pop(name)


def grow_tensor(plan: GrowthPlan, place: Place, source: Tensor) -> Tensor:
    """The weight at ``place`` of the grown model, from the weight at its source.

    An original that changes in nothing is returned as it is, not copied; a copy never shares memory with its source.
    """
    if place.layer is None:
        return source
    role = place.role
    layer_copy = plan.is_layer_copy(place.layer)
    if plan.zero_output and role.output and layer_copy:
        source = torch.zeros_like(source)
    if role.expert_axis and plan.grows_experts(place.layer):
        return gather_experts(source, plan.experts[place.layer], lambda rows: _treat_rows(plan, place, rows))
    if place.expert is not None and plan.is_expert_copy(place.layer, place.expert):
        return treat_expert_copy(plan, place, place.expert, source)
    return source.clone() if layer_copy else source


def _treat_rows(plan: GrowthPlan, place: Place, rows: ExpertRows) -> None:
    """Apply to each copied expert among the gathered rows what the operator does to copies."""
    assert place.layer is not None
    if place.role.balance:
        rows.values.mul_(0.0 if plan.reset_balance else plan.balance_factor)
    for row, expert in enumerate(rows.experts):
        if plan.is_expert_copy(place.layer, expert):
            disturb(plan, place, expert, rows.values[row])


def treat_expert_copy(plan: GrowthPlan, place: Place, expert: int, source: Tensor) -> Tensor:
    """A copied expert's tensor: the source's plus noise, ε ~ N(0, (α·σ)²) with σ of each matrix on its own."""
    copy = source.clone()
    disturb(plan, place, expert, copy)
    return copy


def disturb(plan: GrowthPlan, place: Place, expert: int, values: Tensor) -> None:
    """Add to a copied expert's tensor, in place, the noise that the plan has for it."""
    matrices = place.role.matrices
    if plan.noise > 0 and matrices:
        count = len(matrices)
        parts = [values[..., i::count] for i in range(count)] if place.role.interleaved else values.chunk(count)
        for matrix, part in zip(matrices, parts, strict=True):
            _add_noise(plan, (plan.seed, plan.event, place.layer, matrix, expert), part)


def _add_noise(plan: GrowthPlan, key: tuple[object, ...], values: Tensor) -> None:
    """Noise that depends on the key and on the values alone: no shard, no order of draws, no device enters.

    Drawn in float32 on the CPU, block by block, so that a matrix of any size needs little memory beside its own and
    its blocks stay in the cache.
    """
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
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
