"""Growth of a model in training: the module, its wrapping, its optimizer and its schedule, rebuilt in place."""

from __future__ import annotations

import gc
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor
from torch.optim import Optimizer

from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.names import NATIVE
from lit_recycle.growth.optimizer import ParamState, check_optimizer_state, grow_optimizer_state
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.model.config import MoEConfig
from lit_recycle.module import LitMoE


def grow_in_run(trainer: L.Trainer, module: LitMoE, config: MoEConfig, plan: GrowthPlan, event: GrowthEvent) -> None:
    """Give the model in training the grown shape, and its optimizer the state that belongs to it.

    Weights, optimizer state and learning-rate schedule go on from where they are. Every tensor of the small model is
    let go after its last use, so that no second copy of the model outlives the growth.

    Raises:
        ValueError: For an optimizer whose state cannot be grown, before anything is changed.
    """
    strategy = trainer.strategy
    (optimizer,) = trainer.optimizers
    name = type(optimizer).__name__
    if event.optimizer_state != "reset":
        shapes = {n: p.shape for n, p in module.named_parameters()}
        check_optimizer_state(named_state(module, optimizer), shapes, name)
    weights = {n: t.detach() for n, t in module.state_dict(keep_vars=True).items()}
    states = named_state(module, optimizer)
    groups = [{k: v for k, v in g.items() if k not in ("params", "param_names")} for g in optimizer.param_groups]
    schedules = [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs]

    del optimizer
    strategy.optimizers, strategy.lr_scheduler_configs = [], []
    strategy.connect(module)
    history = module.growth
    module.set_shape(config, history)
    gc.collect()

    with torch.device("meta"):
        model = module.build()
    module.load_state_dict(dict(grow_tensors(plan, NATIVE, weights)), assign=True)
    model.tie_weights()
    strategy.setup(trainer)

    (optimizer,) = trainer.optimizers
    for group, options in zip(optimizer.param_groups, groups, strict=True):
        group.update(options)
    grown = grow_optimizer_state(plan, NATIVE, states, event.optimizer_state, name)
    set_named_state(module, optimizer, grown)
    for scheduler, state in zip(trainer.lr_scheduler_configs, schedules, strict=True):
        scheduler.scheduler.load_state_dict(state)


def named_state(module: LitMoE, optimizer: Optimizer) -> dict[str, ParamState]:
    """The optimizer's state by parameter name, in the order of the module's parameters."""
    return {n: dict(optimizer.state[p]) for n, p in module.named_parameters() if p in optimizer.state}


def set_named_state(module: LitMoE, optimizer: Optimizer, states: dict[str, dict[str, Any]]) -> None:
    parameters: dict[str, Tensor] = dict(module.named_parameters())
    for name, state in states.items():
        optimizer.state[parameters[name]] = state


def refuse_incompatible(trainer: L.Trainer) -> None:
    """What holds on to the module or the optimizer from the start of a run cannot stand beside a growth.

    Raises:
        ValueError: Naming what is in the way.
    """
    for callback in trainer.callbacks:
        if isinstance(callback, (StochasticWeightAveraging, WeightAveraging)):
            raise ValueError(
                f"{type(callback).__name__} keeps a copy of the module as it was set up and cannot follow a growth: "
                "remove one of the two callbacks"
            )
    if type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy):
        raise ValueError(
            f"growth does not work under {type(trainer.strategy).__name__}: use trainer.strategy auto or ddp"
        )
