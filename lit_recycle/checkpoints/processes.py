"""The processes that write a checkpoint together: how many there are, and what each of them has."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist


def is_distributed() -> bool:
    """Whether several processes are connected."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank() -> int:
    """This process's number among those that are connected."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes that are connected."""
    return dist.get_world_size() if is_distributed() else 1


def from_all(value: Any, group: dist.ProcessGroup | None = None) -> list[Any]:
    """What each process has, on all of them."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value, group)
    return values


def barrier(group: dist.ProcessGroup | None = None) -> None:
    """Wait until all processes are here."""
    if is_distributed():
        dist.barrier(group)
