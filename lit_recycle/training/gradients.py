"""Norm of a model's gradients over all processes, before they are clipped, and clipping by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.fsdp import ShardingStrategy
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from lit_recycle.growth.shards import local_part, shard_dimension, shard_group


class GradientNorm:
    """The 2-norm of the gradients that an optimizer is about to use, equal on all processes.

    Where gradients are sharded, squares are added up over the processes: one number is sent, and one for each group if
    groups are asked for. Nothing waits for the device.

    Args:
        model: The model as its strategy has wrapped it.
        optimizer: Its optimizer, whose parameters have gradients.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        self.groups = [[p for p in group["params"] if p.grad is not None] for group in optimizer.param_groups]
        self.params = [p for group in self.groups for p in group]
        self.device = next(p.device for group in optimizer.param_groups for p in group["params"])
        self.process_group, self.sharded = None, set[Tensor]()
        if isinstance(model, FSDP):
            if model.sharding_strategy != ShardingStrategy.NO_SHARD:
                self.process_group, self.sharded = model.process_group, set(self.params)
        elif cut := [p for p in self.params if isinstance(p, DTensor) and shard_dimension(p) is not None]:
            self.process_group, self.sharded = shard_group(cut[0]), set(cut)

    def total(self) -> Tensor:
        """The norm of all gradients."""
        return self._norms([self.params])[0]

    def by_group(self) -> Tensor:
        """The norm of each group of the optimizer."""
        return self._norms(self.groups)

    def clip(self, norm: Tensor, limit: float) -> None:
        """Scale the gradients, whose total norm is ``norm``, so that it is at most ``limit``."""
        for params in (self._sharded(self.params), self._whole(self.params)):
            if params and isinstance(params[0], DTensor):  # torch multiplies sharded tensors by sharded ones
                mesh = params[0].device_mesh
                spread = DTensor.from_local(norm, mesh, [Replicate()] * mesh.ndim, run_check=False)
                clip_grads_with_norm_(params, limit, spread)
            elif params:
                clip_grads_with_norm_(params, limit, norm)

    def _norms(self, groups: Sequence[Sequence[Tensor]]) -> Tensor:
        whole = torch.stack([self._norm(self._whole(params)) for params in groups])
        if self.process_group is None:
            return whole
        squares = torch.stack([self._norm(self._sharded(params)) for params in groups]).square()
        dist.all_reduce(squares, group=self.process_group)
        return (squares + whole.square()).sqrt()

    def _norm(self, params: Iterable[Tensor]) -> Tensor:
        local = [local_part(p.grad) for p in params if p.grad is not None]
        if not local:
            return torch.zeros((), device=self.device)
        norm = get_total_norm(local)
        return norm.to(torch.promote_types(norm.dtype, torch.float32))

    def _sharded(self, params: Iterable[Tensor]) -> list[Tensor]:
        return [p for p in params if p in self.sharded]

    def _whole(self, params: Iterable[Tensor]) -> list[Tensor]:
        return [p for p in params if p not in self.sharded]
