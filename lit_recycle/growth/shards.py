"""Gathering experts along the first axis of a tensor, whole or sharded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard


class ExpertRows(NamedTuple):
    """The rows of a grown expert tensor that this process holds."""

    values: Tensor
    """``[rows, …]``, freshly gathered: may be changed in place."""
    experts: range
    """The grown model's expert in each row."""


def gather_experts(source: Tensor, experts: Sequence[int], treat: Callable[[ExpertRows], None]) -> Tensor:
    """``source[experts]`` with ``treat`` applied to the rows; a sharded tensor stays sharded in the same way.

    A tensor sharded on the expert axis is gathered without communication where each process already holds the sources
    of its rows; otherwise each process is sent those that it lacks.
    """
    if not isinstance(source, DTensor):
        values = _rows(source, experts)
        treat(ExpertRows(values, range(len(experts))))
        return values
    have, want = _ranges(source, source.shape[0]), _ranges(source, len(experts))
    rank = _shard_rank(source)
    needed = [sorted({experts[e] for e in rows}) for rows in want]
    if all(source_row in mine for mine, rows in zip(have, needed, strict=True) for source_row in rows):
        held, row_of = source.to_local(), {e: row for row, e in enumerate(have[rank])}
    else:
        held, row_of = _exchange(source, have, needed), {e: row for row, e in enumerate(needed[rank])}
    values = _rows(held, [row_of[experts[e]] for e in want[rank]])
    treat(ExpertRows(values, want[rank]))
    shape = torch.Size([len(experts), *source.shape[1:]])
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(
        values, source.device_mesh, source.placements, run_check=False, shape=shape, stride=stride
    )


def _exchange(tensor: DTensor, have: list[range], needed: list[list[int]]) -> Tensor:
    """The rows that this process needs, in ascending order, each from the process that has it."""
    rank, local = _shard_rank(tensor), tensor.to_local()
    mine = have[rank]
    send = [[e - mine.start for e in rows if e in mine] for rows in needed]
    receive = [sum(e in rows for e in needed[rank]) for rows in have]
    held = local.new_empty((len(needed[rank]), *local.shape[1:]))
    group = tensor.device_mesh.get_group(_shard_axis(tensor))
    rows = _rows(local, [row for rows in send for row in rows])
    dist.all_to_all_single(held, rows, receive, [len(rows) for rows in send], group=group)
    return held


def _rows(tensor: Tensor, rows: Sequence[int]) -> Tensor:
    return tensor.index_select(0, torch.tensor(rows, device=tensor.device, dtype=torch.int64))


def _shard_axis(tensor: DTensor) -> int | None:
    """The mesh axis that splits the first axis of the tensor; None if it is replicated."""
    axes = [i for i, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    assert all(tensor.placements[i] == Shard(0) for i in axes) and len(axes) <= 1, tensor.placements
    return axes[0] if axes else None


def _shard_rank(tensor: DTensor) -> int:
    axis = _shard_axis(tensor)
    return 0 if axis is None else tensor.device_mesh.get_local_rank(axis)


def _ranges(tensor: DTensor, length: int) -> list[range]:
    """Which of so many rows each process holds, split as ``torch.chunk`` does."""
    axis = _shard_axis(tensor)
    size = 1 if axis is None else tensor.device_mesh.size(axis)
    step = -(-length // size)
    return [range(min(r * step, length), min((r + 1) * step, length)) for r in range(size)]
