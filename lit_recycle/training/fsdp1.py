"""Growth of a model under FSDP1, which keeps each block's parameters as one flat vector and a slice of it per process.

Where the growth leaves the blocks' layout as it was (depth), slices are grown as they are and nothing is sent. Where it
changes the layout (width), one parameter at a time is put together from its slices, grown, and sliced again.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from typing import Any, TypeVar

import lightning as L
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.optim import Optimizer

from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.optimizer import ParamState, each_grown_state
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.policy import OptimizerPolicy
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.named_state import Slice, clean_name, layout
from lit_recycle.training.strategies import FSDPStrategy

T = TypeVar("T")


class Whole(MutableMapping[str, Any]):
    """Named values whose slices are put together when they are read, by all processes in the same order."""

    def __init__(self, values: dict[str, Any], parts: dict[str, Slice], device: torch.device) -> None:
        self.values_here, self.parts, self.device = values, parts, device

    def __getitem__(self, name: str) -> Any:
        value = self.values_here[name]
        if isinstance(value, dict):
            return {key: self._assemble(name, v) for key, v in value.items()}
        return self._assemble(name, value)

    def _assemble(self, name: str, value: Any) -> Any:
        if name not in self.parts or not isinstance(value, Tensor) or value.dim() == 0:
            return value
        part = self.parts[name]
        whole = torch.zeros(part.shape.numel(), dtype=value.dtype, device=self.device)
        part.of(whole).copy_(value)
        dist.all_reduce(whole)
        return whole.view(part.shape).to(value.device)

    def __setitem__(self, name: str, value: Any) -> None:
        self.values_here[name] = value

    def __delitem__(self, name: str) -> None:
        del self.values_here[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.values_here)

    def __len__(self) -> int:
        return len(self.values_here)


class FlatGrowth:
    """Holds the slices of a small model under FSDP1 and gives them, grown, to a large one.

    Args:
        model: The small model, as it is wrapped.
        optimizer: Its optimizer.
        plan: The source map.
    """

    def __init__(self, model: FSDP, optimizer: Optimizer, plan: GrowthPlan) -> None:
        self.plan, parts = plan, layout(model)
        buffers = {clean_name(name): buffer for name, buffer in model.named_buffers()}
        self.weights: MutableMapping[str, Tensor] = buffers | {n: p.param.detach() for n, p in parts.items()}
        state = {name: dict(optimizer.state[p.param]) for name, p in parts.items() if p.param in optimizer.state}
        self.states: MutableMapping[str, ParamState] = _complete(state, parts)
        self.relaid = not plan.is_elementwise
        if self.relaid:
            assert model.compute_device is not None
            self.weights = Whole(dict(self.weights), parts, model.compute_device)
            self.states = Whole(dict(self.states), parts, model.compute_device)

    def set_up(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """Set the strategy up with the large model, which wraps and allocates it, and give it its weights."""
        assert isinstance(trainer.strategy, FSDPStrategy)
        trainer.strategy.growing = True
        trainer.strategy.setup(trainer)
        model = trainer.model
        assert isinstance(model, FSDP)
        parts, buffers = layout(model), {clean_name(n): b for n, b in model.named_buffers()}
        with torch.no_grad():
            for name, tensor in grow_tensors(self.plan, self.weights):
                if name in buffers:
                    buffers[name].copy_(tensor)
                else:
                    parts[name].param.copy_(parts[name].of(tensor) if self.relaid else tensor)

    def give_states(self, model: FSDP, optimizer: Optimizer, policy: OptimizerPolicy) -> None:
        """Let the large model's optimizer have the grown state."""
        parts = layout(model)
        grown = each_grown_state(self.plan, self.states, policy, type(optimizer).__name__)
        for name, state in grown:
            part = parts[name]
            if part.length:
                relaid = {k: part.of(v).clone() for k, v in state.items() if self.relaid and _is_slice(v)}
                optimizer.state[part.param] = state | relaid


def _is_slice(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _complete(states: dict[str, ParamState], parts: dict[str, Slice]) -> dict[str, ParamState]:
    """State also for parameters of which this process holds nothing: empty slices, and the scalars of the others."""
    mine = {name: {k: v.dtype if _is_slice(v) else v for k, v in state.items()} for name, state in states.items()}
    gathered: list[dict[str, ParamState]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, mine)
    complete = {}
    for name, part in parts.items():
        kinds = next((known[name] for known in gathered if name in known), None)
        if kinds is not None:
            empty = {k: part.param.new_empty(0, dtype=v) if isinstance(v, torch.dtype) else v for k, v in kinds.items()}
            complete[name] = states.get(name, empty)
    return complete
