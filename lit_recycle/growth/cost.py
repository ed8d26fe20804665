"""What a growth costs each process of a sharded run, found by running the growth itself without any data.

torch's fake process group stands for the other processes, fake tensors for the weights: the engine does what it would,
and what it holds and receives is counted. Layers are alike, so that each kind of tensor is grown once; where in the
growth memory is taken and given back is followed for all of them.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.utils._pytree import tree_map

from lit_recycle.growth.axes import DENSE_WIDTH, EXPERTS
from lit_recycle.growth.carry_out import Grown, carry_out
from lit_recycle.growth.engine import grow_weight
from lit_recycle.growth.ledger import Ledger
from lit_recycle.growth.names import Place
from lit_recycle.growth.operator import Change, Operator, Target
from lit_recycle.growth.optimizer import grow_state
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.recipe import Recipe
from lit_recycle.growth.shards import best_dimension, local_part, shard_dimension, strides


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
    account, kinds = _Account(), _Kinds(mesh)

    def held(size: Sequence[int]) -> _Held:
        spec = _Spec(tuple(size), best_dimension(size, mesh.size()), torch.float32)
        return _Held(spec, account.memory(spec.bytes(mesh.size())))

    weights = {name: held(size) for name, size in shapes.items()}
    states = {name: {key: held(size) for key in ("exp_avg", "exp_avg_sq")} for name, size in shapes.items()}
    before = account.peak = account.held
    with torch.no_grad(), FakeTensorMode():
        grown = {
            name: account.own(value, is_first, mesh.size())
            for name, value, is_first in carry_out(
                plan, weights, lambda tensor: Grown(tensor, False), lambda *a: account.apply(*kinds.weight(*a))
            )
        }
        moments = {
            name: {key: account.own(value, is_first, mesh.size()) for key, value in state.items()}
            for name, state, is_first in carry_out(
                plan,
                states,
                lambda state: state and {key: Grown(value, False) for key, value in state.items()},
                lambda *a: account.apply(*kinds.state(*a)),
            )
            if state is not None
        }
    assert grown.keys() >= moments.keys()
    return EventCost(before, account.peak, account.held, account.received, account.collectives)


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


# --- tensors without data, and without a tensor ----------------------------------------------------------------------


class _Memory:
    """Some bytes of a process, which are given back when nobody refers to them any more."""


class _Spec(NamedTuple):
    """What there is to know of a tensor without data."""

    shape: tuple[int, ...]
    cut: int | None
    """The dimension along which it is divided; None for what every process holds whole."""
    dtype: torch.dtype

    def local(self, processes: int) -> list[int]:
        """Shape of the first process' share, as torch.chunk has it."""
        held = [*self.shape]
        if self.cut is not None:
            held[self.cut] = min(-(-held[self.cut] // processes), held[self.cut])
        return held

    def bytes(self, processes: int) -> int:
        return torch.Size(self.local(processes)).numel() * self.dtype.itemsize

    def tensor(self, mesh: DeviceMesh) -> Tensor:
        local = torch.empty(self.local(mesh.size()), dtype=self.dtype)
        if self.cut is None:
            return local
        shape = torch.Size(self.shape)
        return DTensor.from_local(local, mesh, [Shard(self.cut)], run_check=False, shape=shape, stride=strides(shape))


def _spec_of(tensor: Tensor) -> _Spec:
    cut = shard_dimension(tensor) if isinstance(tensor, DTensor) else None
    return _Spec(tuple(tensor.shape), cut, tensor.dtype)


@dataclass(eq=False)
class _Held:
    """Stands for a tensor in the growth."""

    spec: _Spec
    memory: _Memory


class _Made(NamedTuple):
    """A tensor that a recipe has made."""

    spec: _Spec
    bytes: int
    shares: int | None
    """The number of the source whose memory it is in; None for memory of its own."""


@dataclass
class _Effect:
    """What growing a tensor of some kind does: what comes out, bytes held besides at the most, and traffic."""

    made: Any
    peak: int
    received: int
    collectives: int


@dataclass
class _Account:
    """Bytes of a process over a growth."""

    held: int = 0
    peak: int = 0
    received: int = 0
    collectives: int = 0

    def memory(self, size: int) -> _Memory:
        memory = _Memory()
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(memory, self._give_back, size)
        return memory

    def _give_back(self, size: int) -> None:
        self.held -= size

    def apply(self, effect: _Effect, sources: Sequence[Any]) -> Any:
        """What comes out for these sources, which are those that the effect is of."""
        self.peak = max(self.peak, self.held + effect.peak)
        self.received += effect.received
        self.collectives += effect.collectives

        def stand_in(made: Any) -> Any:
            if not isinstance(made, _Made):
                return made
            memory = self.memory(made.bytes) if made.shares is None else sources[made.shares].memory
            return _Held(made.spec, memory)

        return _map(stand_in, effect.made)

    def own(self, grown: Grown, is_first: bool, processes: int) -> _Held:
        """As the engine's ``own`` does."""
        held = grown.value
        if grown.owned or is_first:
            return held
        return _Held(held.spec, self.memory(held.spec.bytes(processes)))


@dataclass
class _Kinds:
    """Effects by kind of tensor, each found by growing one of it."""

    mesh: DeviceMesh
    known: dict[Hashable, _Effect] = field(default_factory=dict)

    def weight(self, recipe: Recipe, sources: list[Grown]) -> tuple[_Effect, list[Any]]:
        return self._effect("weight", grow_weight, recipe, sources)

    def state(self, recipe: Recipe, sources: list[Any]) -> tuple[_Effect, list[Any]]:
        return self._effect("state", lambda r, s: grow_state(r, s, "carry", "AdamW"), recipe, sources)

    def _effect(self, what: str, make: Callable[..., Any], recipe: Recipe, sources: Any) -> tuple[_Effect, list[Any]]:
        leaves: list[_Held] = []

        def spec(held: _Held) -> _Spec:
            leaves.append(held)
            return held.spec

        specs = [_map(spec, source) for source in sources]
        key = what, _kind(recipe), *(tuple(s.items()) if isinstance(s, dict) else s for s in specs)
        if key not in self.known:
            self.known[key] = self._found(make, recipe, sources)
        return self.known[key], leaves

    def _found(self, make: Callable[..., Any], recipe: Recipe, sources: Sequence[Any]) -> _Effect:
        with Ledger() as ledger:
            fakes: list[Tensor] = []

            def fake(held: _Held) -> Tensor:
                fakes.append(held.spec.tensor(self.mesh))
                return fakes[-1]

            given = [_map(fake, source) for source in sources]
            numbers = {_address(tensor): i for i, tensor in enumerate(fakes)}
            before = ledger.held
            ledger.reset_peak()
            out = make(recipe, given)

            def described(value: Any) -> Any:
                if not isinstance(value, Tensor):
                    return value
                return _Made(
                    _spec_of(value), local_part(value).untyped_storage().nbytes(), numbers.get(_address(value))
                )

            return _Effect(tree_map(described, out), ledger.peak - before, ledger.received, ledger.collectives)


def _kind(recipe: Recipe) -> Hashable:
    """All that what is done to a tensor depends on, but for the tensor."""
    step, layer = recipe.step, recipe.target.layer
    dense = recipe.splits_dense and (
        step.sources.full_axis(EXPERTS, layer),
        step.before.size(DENSE_WIDTH, recipe.sources[0][0].layer),
    )
    sources = tuple((place.axes, place.model, weight) for place, weight in recipe.sources)
    is_copy = layer is not None and step.sources.layer_copies[layer]
    takes = tuple(recipe.takes)
    return step.key, recipe.target.axes, recipe.target.expert, sources, takes, recipe.shape, dense, is_copy


def _address(tensor: Tensor) -> int:
    return local_part(tensor).untyped_storage()._cdata


def _map(function: Callable[[Any], Any], made: Any) -> Any:
    """Of a weight or of the entries of a state; `_Made` is a tuple too, which torch's trees would take apart."""
    if made is None:
        return None
    if isinstance(made, dict):
        return {key: _map(function, value) for key, value in made.items()}
    return Grown(function(made.value), made.owned)
