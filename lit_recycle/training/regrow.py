"""Growth of a model in training: the module, its wrapping, its optimizer and its schedule, rebuilt in place."""

from __future__ import annotations

import gc
import weakref

import lightning as L
import torch
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.optim import Optimizer

from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.optimizer import check_optimizer_state, each_grown_state, gradient_power
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.policy import OptimizerPolicy
from lit_recycle.growth.shape import Shape
from lit_recycle.growth.shards import like_sharded
from lit_recycle.training import named_state
from lit_recycle.training.averages import grow_averages, refuse_averages
from lit_recycle.training.fsdp1 import FlatGrowth
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.masks import holders_of_masks
from lit_recycle.training.strategies import FSDP2Strategy, FSDPStrategy


def grow_in_run(trainer: L.Trainer, module: GrowableModule, plan: GrowthPlan, policy: OptimizerPolicy) -> None:
    """Give the model in training the grown shape, and its optimizer the state that belongs to it.

    Weights, optimizer state and learning-rate schedule go on from where they are. Every tensor of the small model is
    let go after its last use, so that no second copy of the model outlives the growth.

    Raises:
        ValueError: For an optimizer whose state cannot be grown, before anything is changed.
    """
    strategy = trainer.strategy
    assert isinstance(plan.after, Shape) and trainer.model is not None
    (optimizer,) = trainer.optimizers
    if policy != "reset":
        check_optimizer(module, optimizer, divides=not plan.is_elementwise)
    small: FlatGrowth | NamedGrowth
    if isinstance(trainer.model, FSDP):
        small = FlatGrowth(trainer.model, optimizer, plan)
    else:
        small = NamedGrowth(trainer.model, optimizer, plan)
    groups = [named_state.options(group) for group in optimizer.param_groups]
    schedules = [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs]
    parameters = [weakref.ref(p) for p in module.parameters()]
    trained = {named_state.clean_name(name): p.requires_grad for name, p in module.named_parameters()}

    del optimizer
    strategy.optimizers, strategy.lr_scheduler_configs = [], []
    module.set_shape(plan.after, module.growth)
    strategy.connect(module)
    if any(parameter() is not None for parameter in parameters):
        gc.collect()  # wrappers and their hooks refer to each other; looking at every object takes tenths of a second

    with torch.device("meta"):
        module.build()
    origins = plan.origins(trained)
    for name, parameter in module.named_parameters():
        # A balancing bias, which is built so that nobody trains it, may have come out of a matrix.
        parameter.requires_grad_(parameter.requires_grad and trained[origins[name]])
    small.set_up(trainer, module)
    grow_averages(trainer, module, plan)

    (optimizer,) = trainer.optimizers
    for group, options in zip(optimizer.param_groups, groups, strict=True):
        group.update(options)
    small.give_states(trainer.model, optimizer, policy)  # type: ignore[arg-type]  # wrapped as it was
    for scheduler, state in zip(trainer.lr_scheduler_configs, schedules, strict=True):
        scheduler.scheduler.load_state_dict(state)
    for holder in holders_of_masks(trainer):
        holder.grow_masks(trainer, module, plan)


def check_optimizer(module: GrowableModule, optimizer: Optimizer, divides: bool) -> None:
    """Refuse an optimizer whose state cannot be grown.

    Args:
        module: The module.
        optimizer: Its optimizer, after a step.
        divides: A growth divides gradients, so that it must be known how the state scales with them.

    Raises:
        ValueError: Naming the optimizer, the state, and what can be done.
    """
    shapes = {named_state.clean_name(name): p.shape for name, p in module.named_parameters()}
    name, states = type(optimizer).__name__, named_state.named_state(module, optimizer)
    check_optimizer_state(states, shapes, name)
    for state in states.values() if divides else ():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.dim():
                gradient_power(key, state, name)


class NamedGrowth:
    """Holds the named tensors of a small model, whole or sharded, and gives them, grown, to a large one."""

    def __init__(self, model: nn.Module, optimizer: Optimizer, plan: GrowthPlan) -> None:
        self.plan, self.weights = plan, named_state.weights(model)
        self.states = named_state.named_state(model, optimizer)

    def set_up(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """Give the large model, which is on the meta device, its weights, and set the strategy up with it."""
        grown = dict(grow_tensors(self.plan, self.weights))
        if isinstance(trainer.strategy, FSDP2Strategy):
            # Divided as on a resume: norms are sums over shards, and would be rounded otherwise.
            trainer.strategy.shard(module)
            for name, parameter in module.named_parameters():
                grown[name] = like_sharded(grown[name], parameter)
        tied = named_state.tied(module)
        module.load_state_dict(grown, assign=True)
        named_state.tie(module, tied)
        trainer.strategy.setup(trainer)

    def give_states(self, model: nn.Module, optimizer: Optimizer, policy: OptimizerPolicy) -> None:
        """Let the large model's optimizer have the grown state."""
        parameters = {named_state.clean_name(name): p for name, p in model.named_parameters()}
        grown = each_grown_state(self.plan, self.states, policy, type(optimizer).__name__)
        for name, state in grown:
            target = parameters[name]
            optimizer.state[target] = {
                key: like_sharded(value, target) if isinstance(value, Tensor) and value.shape == target.shape else value
                for key, value in state.items()
            }


def refuse_incompatible(trainer: L.Trainer) -> None:
    """What holds on to the module or the optimizer from the start of a run cannot stand beside a growth.

    Raises:
        ValueError: Naming what is in the way.
    """
    refuse_averages(trainer)
    if type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy, FSDPStrategy, FSDP2Strategy):
        name = type(trainer.strategy).__name__
        raise ValueError(f"growth does not work under {name}: set trainer.strategy to auto, ddp, fsdp or fsdp2")
