"""Tensors that are cut among processes, put together on one process each, worked on, and cut again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_recycle.growth.shards import shard_dimension, shard_group, shard_ranges, shard_rank

Work = Callable[[Sequence[Tensor], list[Tensor]], list[Tensor]]


def on_owners(cut: Sequence[Tensor], parts: Sequence[Tensor], work: Work) -> list[Tensor]:
    """This process's parts of what ``work`` makes of whole tensors, each of which is made by one process.

    Two exchanges among all processes, each of as many elements as a process holds parts of; every process has about the
    same amount of work.

    Args:
        cut: Sharded tensors, alike on all processes and cut alike, which say how ``parts`` are cut.
        parts: This process's part of each, of one type.
        work: Takes some of ``cut`` and the whole tensors that belong to them; gives tensors of the same shapes.
    """
    if not cut:
        return []
    first = cut[0]
    assert all(isinstance(t, DTensor) and t.device_mesh == first.device_mesh for t in cut)  # type: ignore[attr-defined]
    exchange = _Exchange(cut, parts)
    mine = exchange.gather()
    done = dict(zip(mine, work([cut[i] for i in mine], list(mine.values())), strict=True))
    return exchange.scatter(done)


class _Exchange:
    """Which part of which tensor goes where."""

    def __init__(self, cut: Sequence[Tensor], parts: Sequence[Tensor]) -> None:
        self.parts, self.shapes = parts, []
        for tensor in cut:
            assert isinstance(tensor, DTensor)
            dimension, shape = shard_dimension(tensor), tensor.shape
            held = shard_ranges(tensor)
            self.shapes.append(
                [torch.Size([len(h) if d == dimension else n for d, n in enumerate(shape)]) for h in held]
            )
        first = cut[0]
        assert isinstance(first, DTensor)
        self.dimensions = [shard_dimension(tensor) for tensor in cut]  # type: ignore[arg-type]
        self.group, self.rank, self.device = shard_group(first), shard_rank(first), first.device_mesh.device_type
        self.owned = owners([tensor.shape for tensor in cut], dist.get_world_size(self.group))

    def gather(self) -> dict[int, Tensor]:
        """The whole tensors that this process owns, by number."""
        outgoing = [[self.parts[i] for i in owned] for owned in self.owned]
        mine = self.owned[self.rank]
        incoming = self._send(outgoing, [[self.shapes[i][rank] for i in mine] for rank in range(len(self.owned))])
        return {
            i: torch.cat([received[place] for received in incoming], self.dimensions[i])  # type: ignore[arg-type]
            for place, i in enumerate(mine)
        }

    def scatter(self, whole: dict[int, Tensor]) -> list[Tensor]:
        """This process's parts of all tensors, each sent by its owner."""
        split = {
            i: tensor.split([shape[self.dimensions[i]] for shape in self.shapes[i]], self.dimensions[i])  # type: ignore[index,arg-type]
            for i, tensor in whole.items()
        }
        outgoing = [[split[i][rank] for i in whole] for rank in range(len(self.owned))]
        incoming = self._send(outgoing, [[self.shapes[i][self.rank] for i in owned] for owned in self.owned])
        parts = {
            i: part
            for owned, received in zip(self.owned, incoming, strict=True)
            for i, part in zip(owned, received, strict=True)
        }
        return [parts[i].to(part.device) for i, part in enumerate(self.parts)]

    def _send(self, outgoing: list[list[Tensor]], shapes: list[list[torch.Size]]) -> list[list[Tensor]]:
        """To each process some tensors; from each those of the given shapes."""
        kind = self.parts[0].new_empty(0, device=self.device)
        sent = torch.cat([kind, *(t.flatten().to(self.device) for tensors in outgoing for t in tensors)])
        numbers = [[shape.numel() for shape in expected] for expected in shapes]
        received = kind.new_empty(sum(map(sum, numbers)))
        dist.all_to_all_single(
            received, sent, [sum(n) for n in numbers], [sum(t.numel() for t in ts) for ts in outgoing], group=self.group
        )
        flat = iter(received.split([n for expected in numbers for n in expected]))
        return [[next(flat).view(shape) for shape in expected] for expected in shapes]


def owners(shapes: Sequence[torch.Size], processes: int) -> list[list[int]]:
    """Numbers of the matrices that each process owns; the largest go first, each to whom has least to do."""
    load = [0] * processes
    owned: list[list[int]] = [[] for _ in range(processes)]
    for i in sorted(range(len(shapes)), key=lambda i: (-_work(shapes[i]), i)):
        process = load.index(min(load))
        owned[process].append(i)
        load[process] += _work(shapes[i])
    return owned


def _work(shape: torch.Size) -> int:
    """Of products of a matrix with its transpose: its elements times the smaller side."""
    return shape.numel() * min(shape[-2:])
