"""The engine of growth: carries the recipes of a plan out on named tensors, for weights and for optimizer state alike.

It knows nothing of operators, modules, strategies or files. Sharded tensors (``DTensor``) are grown shard by shard.

One rule says what a map does to a tensor (the axis strings of a family's table say which dimension is which). Let m be
the number of entries that share an entry's source. On a summed dimension weights are multiplied by 1/m, so that the sum
is what it was. On any other values are repeated, and each copy has 1/m of its source's gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_recycle.growth.axes import DENSE_WIDTH, EXPERTS, Dimension
from lit_recycle.growth.carry_out import Grown, carry_out, own
from lit_recycle.growth.names import Place
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.recipe import Recipe
from lit_recycle.growth.shards import gather, gather_each, local_part, resharded, rewrapped, shard_dimension, window
from lit_recycle.growth.sources import AnyMap, AxisMap, MapPerExpert
from lit_recycle.growth.treatments import Part, Treatment, Zero


def grow_tensors(plan: GrowthPlan, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Names and weights of the grown model, one at a time. A source leaves ``tensors`` after its last use, if it can.

    An original that changes in nothing is returned as it is, not copied; a copy never shares memory with its source.
    """

    def enter(tensor: Tensor | None) -> Grown:
        assert tensor is not None, "weights are all there"
        return Grown(tensor, False)

    for name, grown, is_first in carry_out(plan, tensors, enter, grow_weight):
        yield name, own(grown, is_first)


# --- one tensor ------------------------------------------------------------------------------------------------------


def grow_weight(recipe: Recipe, sources: Sequence[Grown]) -> Grown:
    """The weight of a recipe's target, from the weights of its sources."""
    value, owned = taken(recipe, sources)
    for i, axis, mapped in recipe.takes if recipe.shape is None else ():
        if recipe.target.axes.dimensions[i].summed:
            scale(recipe, value, i, axis, mapped, lambda m: [1 / n for n in m.multiplicities])
    wanted = treatments_of(recipe)
    if all(treatments == (Zero(),) for treatments in wanted):
        return Grown(value.zero_() if owned else torch.zeros_like(value), True)
    return treat(recipe, Grown(value, owned), wanted, lambda treatment, part: treatment.apply(part))


def taken(recipe: Recipe, sources: Sequence[Grown]) -> Grown:
    """What a recipe takes of its sources: sums of several, gathered along each axis that is mapped."""
    if recipe.shape is not None:
        return Grown(_new(recipe, recipe.shape, sources[0].value), True)
    values = [source.value for source in sources]
    if recipe.splits_dense:
        value, owned = split_dense(recipe, values), True
    else:
        value, owned = sources[0] if len(sources) == 1 else Grown(_blend(recipe, values), True)
    for i, axis, mapped in recipe.takes:
        if axis == EXPERTS and recipe.splits_dense:
            continue
        dimension, length = recipe.target.axes.dimensions[i], value.shape[i]
        if length == 1 != mapped.size:  # factored optimizer state has no entries along this dimension
            continue
        if isinstance(mapped, MapPerExpert):
            tables = [dimension.indices(axis, m.size, m.sources, length) for m in mapped.maps]
            value, owned = gather_each(value, _expert_dimension(recipe), i, tables), True
        else:
            value, owned = gather(value, i, dimension.indices(axis, mapped.size, mapped.sources, length)), True
    return Grown(value, owned)


def _expert_dimension(recipe: Recipe) -> int:
    found = recipe.target.axes.expert_dimension
    assert found is not None, "only a tensor of all experts has a map for each"
    return found


def _new(recipe: Recipe, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Memory for a new tensor, of the type and in the shards of another one of its layer."""
    if recipe.target.axes.is_buffer:  # float32 in any model, and whole in every process
        return torch.empty(shape, dtype=torch.float32, device=local_part(like).device)
    if not isinstance(like, DTensor):
        return like.new_empty(shape)
    whole = torch.empty(shape, device="meta")
    empty = rewrapped(like.to_local(), like, shape)  # only to learn which section of the shape is this process's
    return rewrapped(like.to_local().new_empty(whole[window(empty)].shape), like, shape)


def _blend(recipe: Recipe, values: Sequence[Tensor]) -> Tensor:
    first = local_part(values[0])
    # In float64 equal values have that value for their mean, whatever the weights.
    total = torch.zeros_like(first, dtype=torch.float64)
    for value, (_, weight) in zip(values, recipe.sources, strict=True):
        total.add_(local_part(value), alpha=weight)
    local = total.to(first.dtype)
    return rewrapped(local, values[0], values[0].shape) if isinstance(values[0], DTensor) else local


def split_dense(recipe: Recipe, sources: Sequence[Tensor]) -> Tensor:
    """Experts out of a dense network: slice g of its inner channels for an expert that comes from g."""
    mapped = recipe.step.sources.experts(recipe.target.layer)
    assert mapped is not None
    like, stack = sources[0], recipe.target.axes.cell.stack
    wholes = [source.full_tensor() if isinstance(source, DTensor) else source for source in sources]

    def expert(e: int) -> Tensor:
        model, g = mapped.origins[e]
        slices = [
            _slice(recipe, place, whole, mapped.size, g)
            for (place, _), whole in zip(recipe.sources, wholes, strict=True)
            if place.model == model
        ]
        return stacked(slices, stack)

    if recipe.target.expert is not None:
        return expert(recipe.target.expert)
    shape = (len(mapped.sources), *expert(0).shape)
    if not isinstance(like, DTensor):
        return torch.stack([expert(e) for e in range(len(mapped.sources))])
    mine, *sections = window(rewrapped(wholes[0], like, shape))
    held = [expert(e)[tuple(sections)] for e in range(len(mapped.sources))[mine]]
    empty = wholes[0].new_empty((0, *(section.stop - section.start for section in sections)))
    return rewrapped(torch.stack(held) if held else empty, like, shape)


def _slice(recipe: Recipe, place: Place, whole: Tensor, slices: int, g: int) -> Tensor:
    """One of so many slices of a dense network's inner channels."""
    i, dimension = next((i, d) for i, d in enumerate(place.axes.dimensions) if DENSE_WIDTH in d.factors)
    inner = recipe.step.before.size(DENSE_WIDTH, place.layer)
    if whole.shape[i] == 1 != inner:  # factored optimizer state has no entries along this dimension
        return whole
    width = inner // slices
    index = dimension.indices(DENSE_WIDTH, inner, range(g * width, (g + 1) * width), whole.shape[i])
    return whole.index_select(i, torch.tensor(index, device=whole.device))


def stacked(matrices: Sequence[Tensor], stack: tuple[int, bool] | None) -> Tensor:
    """One tensor of several matrices, one after the other along a dimension, or row by row in turn.

    Args:
        matrices: The matrices.
        stack: The dimension, and whether they alternate; see :attr:`TensorAxes.stack`.
    """
    if len(matrices) == 1 or stack is None:
        (matrix,) = matrices
        return matrix
    dimension, alternates = stack
    if not alternates:
        return torch.cat(list(matrices), dim=dimension)
    return torch.stack(list(matrices), dim=dimension + 1).flatten(dimension, dimension + 1)


def scale(
    recipe: Recipe, value: Tensor, i: int, axis: str, mapped: AnyMap, factors: Callable[[AxisMap], Sequence[float]]
) -> None:
    """Multiply in place along a dimension by a factor for each entry of one of its axes, as its map has it."""
    local, sections, dimension = local_part(value), window(value), recipe.target.axes.dimensions[i]
    if isinstance(mapped, AxisMap):
        _scale(local, i, factors(mapped), dimension, axis, value.shape[i], sections[i])
        return
    outer = _expert_dimension(recipe)
    for part, one in zip(local.unbind(outer), mapped.maps[sections[outer]], strict=True):
        _scale(part, i - (outer < i), factors(one), dimension, axis, value.shape[i], sections[i])


def _scale(
    local: Tensor, i: int, factors: Sequence[float], dimension: Dimension, axis: str, length: int, section: slice
) -> None:
    """``section`` is what ``local`` holds of a dimension of so many indices."""
    if len({*factors}) == 1 or length == 1:
        factor = factors[0] if len({*factors}) == 1 else sum(factors) / len(factors)
        if factor != 1:
            local.mul_(factor)
        return
    vector = torch.tensor(dimension.repeated(axis, factors, length), dtype=torch.float64)[section]
    local.mul_(vector.to(local).view([-1 if j == i else 1 for j in range(local.dim())]))


# --- what operators do to parts --------------------------------------------------------------------------------------


def treatments_of(recipe: Recipe) -> list[Sequence[Treatment]]:
    """What the operator does to each part of a tensor."""
    experts = recipe.experts()
    return [recipe.treatments(e) for e in ((recipe.target.expert,) if experts is None else experts)]


def treat(
    recipe: Recipe, grown: Grown, wanted: Sequence[Sequence[Treatment]], apply: Callable[[Treatment, Part], None]
) -> Grown:
    """Apply to each part of a grown tensor, an expert or the whole, what is wanted for it."""
    if not any(wanted):
        return grown
    value = grown.value if grown.owned else grown.value.clone()
    if any(t.needs_whole for treatments in wanted for t in treatments) and _cuts_parts(recipe, value):
        experts = recipe.target.axes.expert_dimension
        if experts is not None:  # each expert is put together in one process
            moved = treat(recipe, Grown(resharded(value, experts), True), wanted, apply).value
            return Grown(resharded(moved, _cut(value)), True)
        whole = Grown(value.full_tensor(), True)
        return Grown(_shard_of(treat(recipe, whole, wanted, apply).value, value), True)
    for part, treatments in zip(parts_of(recipe, value), wanted, strict=True):
        if part is not None:
            for treatment in treatments:
                apply(treatment, part)
    return Grown(value, True)


def _cuts_parts(recipe: Recipe, value: Tensor) -> bool:
    """Whether a process may hold less than a whole part: shards along anything but experts."""
    if not isinstance(value, DTensor):
        return False
    return shard_dimension(value) not in (None, recipe.target.axes.expert_dimension)


def _cut(value: DTensor) -> int:
    dimension = shard_dimension(value)
    assert dimension is not None
    return dimension


def _shard_of(whole: Tensor, like: DTensor) -> DTensor:
    """What this process holds of a whole tensor that is to be sharded as ``like``, in memory of its own."""
    return rewrapped(whole[window(like)].clone(), like, whole.shape)


def parts_of(recipe: Recipe, value: Tensor) -> Iterator[Part | None]:
    """The part of each expert, or the only one; None for those that other processes hold."""
    target, step, local, sections = recipe.target, recipe.step, local_part(value), window(value)
    dimension, experts = target.axes.expert_dimension, recipe.experts()
    maps = {axis: mapped for _, axis, mapped in recipe.takes}

    def of(expert: int | None) -> dict[str, AxisMap]:
        return {axis: mapped.of(expert) for axis, mapped in maps.items()}

    if dimension is None or experts is None:
        key = (*step.key, target.layer, target.expert)
        yield Part(local, target.axes, key, target.suffix, tuple(value.shape), sections, of(target.expert))
        return
    mine = sections[dimension]
    rest = sections[:dimension] + sections[dimension + 1 :]
    shape = tuple(n for i, n in enumerate(value.shape) if i != dimension)
    for expert in experts:
        if not mine.start <= expert < mine.stop:
            yield None
            continue
        values = local.select(dimension, expert - mine.start)
        yield Part(values, target.axes.cell, (*step.key, target.layer, expert), target.suffix, shape, rest, of(expert))
