"""Sharded tensors: along which dimension they are divided, and entries gathered along any with little communication."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

EVEN_ENOUGH = 1.1
"""Largest share of a process, relative to the even one, with which a tensor is divided along its first dimension."""


def best_dimension(shape: Sequence[int], processes: int) -> int:
    """The dimension along which a tensor is divided among processes: the first, where that comes out even enough.

    Otherwise the first one that divides evenly, as FSDP2 wants it of all but the first; so that memory goes on falling
    with more processes than experts.
    """
    if not shape or -(-shape[0] // processes) * processes <= EVEN_ENOUGH * shape[0]:
        return 0
    return next((i for i, size in enumerate(shape) if i and size % processes == 0), 0)


def resharded(tensor: DTensor, dimension: int) -> DTensor:
    """A sharded tensor divided along another dimension; each process sends and receives no more than its part."""
    placements = [p if p.is_replicate() else Shard(dimension) for p in tensor.placements]
    return tensor if placements == list(tensor.placements) else tensor.redistribute(placements=placements)


def like_sharded(tensor: Tensor, parameter: Tensor) -> Tensor:
    """A tensor divided along the dimension that a parameter is."""
    if not (isinstance(tensor, DTensor) and isinstance(parameter, DTensor)):
        return tensor
    dimension = shard_dimension(parameter)
    return tensor if dimension is None else resharded(tensor, dimension)


def gather(source: Tensor, dimension: int, indices: Sequence[int]) -> Tensor:
    """``source.index_select(dimension, indices)``, in new memory; a sharded tensor stays sharded in the same way.

    Along a dimension that is not the sharded one nothing is sent. Along the sharded one nothing is sent either where
    each process already holds the sources of its entries; otherwise each is sent those that it lacks.
    """
    if not isinstance(source, DTensor):
        return _select(source, dimension, indices)
    shape = torch.Size([len(indices) if i == dimension else n for i, n in enumerate(source.shape)])
    if shard_dimension(source) != dimension:
        return rewrapped(_select(source.to_local(), dimension, indices), source, shape)
    rank, size = shard_rank(source), _processes(source)
    held, want = source.to_local(), _chunks(len(indices), size)[rank]
    route = _route(source.shape[dimension], tuple(indices), size, rank)
    if route is not None:
        held = _exchange(source, dimension, route)
    has = _chunks(source.shape[dimension], size)[rank] if route is None else route.needed
    place_of = {e: i for i, e in enumerate(has)}
    return rewrapped(_select(held, dimension, [place_of[indices[e]] for e in want]), source, shape)


def gather_each(source: Tensor, outer: int, dimension: int, tables: Sequence[Sequence[int]]) -> Tensor:
    """As :func:`gather` along ``dimension``, with other indices for each entry of the dimension ``outer``.

    Nothing is sent, but where a tensor is divided along ``dimension``: it is divided along ``outer`` meanwhile, and
    each process sends and receives no more than its part.
    """
    shape = [len(tables[0]) if i == dimension else n for i, n in enumerate(source.shape)]
    if isinstance(source, DTensor):
        if shard_dimension(source) == dimension:
            return resharded(gather_each(resharded(source, outer), outer, dimension, tables), dimension)  # type: ignore[arg-type]
        mine, local = window(source)[outer], source.to_local()
        return rewrapped(_select_each(local, outer, dimension, tables[mine], len(tables[0])), source, shape)
    return _select_each(source, outer, dimension, tables, len(tables[0]))


def _select_each(source: Tensor, outer: int, dimension: int, tables: Sequence[Sequence[int]], length: int) -> Tensor:
    grown = source.new_empty([length if i == dimension else n for i, n in enumerate(source.shape)])
    for part, indices, target in zip(source.unbind(outer), tables, grown.unbind(outer), strict=True):
        target.copy_(_select(part, dimension - (outer < dimension), indices))
    return grown


def rewrapped(local: Tensor, like: DTensor, shape: Sequence[int]) -> DTensor:
    """This process's part of a tensor of ``shape``, sharded as ``like`` is."""
    stride = strides(shape)
    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=torch.Size(shape), stride=stride
    )


def strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Of a contiguous tensor of this shape."""
    found = [1]
    for size in reversed(shape[1:]):
        found.append(found[-1] * max(size, 1))
    return tuple(reversed(found[: len(shape)]))


def local_part(tensor: Tensor) -> Tensor:
    """What this process holds, sharing memory with the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def window(tensor: Tensor) -> tuple[slice, ...]:
    """The section of each dimension that this process holds."""
    sections = [slice(0, n) for n in tensor.shape]
    if isinstance(tensor, DTensor) and (dimension := shard_dimension(tensor)) is not None:
        held = _chunks(tensor.shape[dimension], _processes(tensor))[shard_rank(tensor)]
        sections[dimension] = slice(held.start, held.stop)
    return tuple(sections)


def shard_dimension(tensor: DTensor) -> int | None:
    """The dimension that is divided among processes; None if every process holds the whole tensor."""
    axis = _shard_axis(tensor)
    return None if axis is None else tensor.placements[axis].dim  # type: ignore[attr-defined]


def shard_ranges(tensor: DTensor) -> Sequence[range]:
    """Which entries of the dimension that is divided each process holds."""
    dimension = shard_dimension(tensor)
    assert dimension is not None
    return _chunks(tensor.shape[dimension], _processes(tensor))


def shard_rank(tensor: DTensor) -> int:
    """This process's number among those that divide the tensor."""
    axis = _shard_axis(tensor)
    return 0 if axis is None else tensor.device_mesh.get_local_rank(axis)


def shard_group(tensor: DTensor) -> dist.ProcessGroup:
    """The processes that divide the tensor."""
    return tensor.device_mesh.get_group(_shard_axis(tensor))


class _Route(NamedTuple):
    """What one process sends and receives, so that each has the sources of its entries."""

    needed: tuple[int, ...]
    """Entries that it then has, in ascending order."""
    sent: tuple[int, ...]
    """Entries that it sends, by their places in its part, in the order of those who receive them."""
    send: tuple[int, ...]
    """How many to each process."""
    receive: tuple[int, ...]
    """How many from each process."""


@lru_cache(maxsize=64)  # all layers take the same routes, and of thousands of processes one takes a while
def _route(length: int, indices: tuple[int, ...], size: int, rank: int) -> _Route | None:
    """How entries get to where ``indices`` of them are wanted; None where each process has all that it needs."""
    have, want = _chunks(length, size), _chunks(len(indices), size)
    needed = [sorted({indices[e] for e in entries}) for entries in want]
    if all(entry in mine for mine, entries in zip(have, needed, strict=True) for entry in entries):
        return None
    mine = have[rank]
    send = [[e - mine.start for e in entries if e in mine] for entries in needed]
    receive = tuple(sum(e in entries for e in needed[rank]) for entries in have)
    return _Route(tuple(needed[rank]), tuple(e for entries in send for e in entries), tuple(map(len, send)), receive)


def _exchange(tensor: DTensor, dimension: int, route: _Route) -> Tensor:
    """The entries that this process needs, each from the process that has it."""
    local = tensor.to_local().movedim(dimension, 0)
    held = local.new_empty((len(route.needed), *local.shape[1:]))
    sent = _select(local, 0, route.sent)
    dist.all_to_all_single(held, sent, [*route.receive], [*route.send], group=shard_group(tensor))
    return held.movedim(0, dimension)


def _select(tensor: Tensor, dimension: int, indices: Sequence[int]) -> Tensor:
    index = torch.tensor(indices, device=tensor.device, dtype=torch.int64)
    return tensor.index_select(dimension, index)


def _shard_axis(tensor: DTensor) -> int | None:
    """The mesh axis that splits the tensor; None if it is replicated."""
    axes = [i for i, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    assert all(tensor.placements[i].is_shard() for i in axes) and len(axes) <= 1, tensor.placements
    return axes[0] if axes else None


def _processes(tensor: DTensor) -> int:
    """Number of those that divide the tensor."""
    axis = _shard_axis(tensor)
    return 1 if axis is None else tensor.device_mesh.size(axis)


@lru_cache(maxsize=256)
def _chunks(length: int, processes: int) -> tuple[range, ...]:
    """Which of so many entries each process holds, as ``torch.chunk`` divides them."""
    step = -(-length // processes)
    return tuple(range(min(r * step, length), min((r + 1) * step, length)) for r in range(processes))
