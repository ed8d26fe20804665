"""What a growth costs each process of a sharded run, found by running the growth itself without any data.

torch's fake process group stands for the other processes, fake tensors for the weights: the engine does what it would,
and what it holds and receives is counted.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.names import Place
from lit_recycle.growth.operator import Change, Operator, Target
from lit_recycle.growth.optimizer import grow_optimizer_state
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.shards import best_dimension, strides


@dataclass(frozen=True)
class EventCost:
    """Bytes of weights and AdamW moments on one process, and bytes that it receives, at a growth.

    Args:
        before: Held before the event.
        peak: Held at the most during it.
        after: Held after it.
        received: Written by collectives, this process's own part included.
        collectives: Number of collectives that move tensors.
    """

    before: int
    peak: int
    after: int
    received: int
    collectives: int


def event_cost(shapes: Mapping[str, Sequence[int]], plan: GrowthPlan, mesh: DeviceMesh) -> EventCost:
    """Cost of a growth under FSDP2 for the first process of the mesh, which holds the most.

    Args:
        shapes: The parameters, which are float32, by name.
        plan: The growth.
        mesh: The processes.
    """
    plan = GrowthPlan(tuple(replace(step, operator=_Untreated(step.operator)) for step in plan.steps))
    with torch.no_grad(), FakeTensorMode(), Ledger() as ledger:
        weights = {name: _shard(shape, mesh) for name, shape in shapes.items()}
        states = {name: {key: _shard(s, mesh) for key in ("exp_avg", "exp_avg_sq")} for name, s in shapes.items()}
        before = ledger.held
        ledger.reset_peak()
        grown = dict(grow_tensors(plan, weights))
        moments = grow_optimizer_state(plan, states, "carry", "AdamW")
        assert grown.keys() == moments.keys()
        return EventCost(before, ledger.peak, ledger.held, ledger.received, ledger.collectives)


class _Untreated(Operator):
    """An operator without its treatments, which are made in place and send nothing."""

    def __init__(self, operator: Operator) -> None:
        self._operator = operator

    def sources(self, *args: Any) -> Any:
        return self._operator.sources(*args)

    def label(self, *args: Any) -> str:
        return self._operator.label(*args)

    def targets(self, place: Place, change: Change) -> Iterable[Target]:
        return self._operator.targets(place, change)


@contextmanager
def fake_processes(world_size: int) -> Iterator[DeviceMesh]:
    """A mesh of so many processes, of which this is the first and the others do not exist."""
    # The one piece of torch's test kit that is needed; it registers the "fake" backend.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=world_size, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (world_size,))
    finally:
        dist.destroy_process_group()


def _shard(size: Sequence[int], mesh: DeviceMesh) -> Tensor:
    shape, cut = torch.Size(size), best_dimension(size, mesh.size())
    held = [*shape]
    held[cut] = min(-(-shape[cut] // mesh.size()), shape[cut])  # the first process' share, as torch.chunk has it
    local = torch.empty(held, dtype=torch.float32)
    return DTensor.from_local(local, mesh, [Shard(cut)], run_check=False, shape=shape, stride=strides(shape))


_COLLECTIVES = ("c10d", "_c10d_functional")
_MOVE_NOTHING = ("c10d::barrier", "_c10d_functional::wait_tensor")


class Ledger(TorchDispatchMode):
    """Counts the bytes of storages that operations make while it is on, while they live, and those of collectives.

    Attributes:
        held: Bytes alive now.
        peak: Most bytes alive at once, since ``reset_peak``.
        received: Bytes that collectives wrote here, this process's own part included.
        collectives: Number of collectives that move tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = self.received = self.collectives = 0
        self._users: dict[int, int] = {}

    def reset_peak(self) -> None:
        self.peak = self.held

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self._enter(tensor)
        if func.namespace in _COLLECTIVES and func.name() not in _MOVE_NOTHING:
            self.collectives += 1
            self.received += _tensors(args)[0].nbytes  # by torch's convention the output comes first
        return out

    def _enter(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._users:
            self._users[key] = 0
            self.held += size
            self.peak = max(self.peak, self.held)
        self._users[key] += 1
        weakref.finalize(tensor, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self.held -= size


def _tensors(tree: Any) -> list[Tensor]:
    """The tensors in nested containers; of sharded ones, this process's part."""
    tensors = [t for t in tree_leaves(tree) if isinstance(t, Tensor)]
    return [t.to_local() if isinstance(t, DTensor) else t for t in tensors]
