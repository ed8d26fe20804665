"""Carries a plan out on named tensors: gather along layers, gather along experts, then treat the copies.

It knows nothing of modules, strategies or files. Sharded tensors (``DTensor``) are grown shard by shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, MutableMapping
from typing import TypeVar

import torch
from torch import Tensor

from lit_recycle.growth.names import Naming, Place
from lit_recycle.growth.noise import disturb
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.shards import ExpertRows, gather_experts

T = TypeVar("T")


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
    return disturb(plan, place, expert, source.clone())
