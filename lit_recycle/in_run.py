"""Growth of a model in training: the module, its wrapping, its optimizer and its schedule, rebuilt in place."""

from __future__ import annotations

import gc

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from lit_recycle import live
from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.names import NATIVE
from lit_recycle.growth.optimizer import check_optimizer_state, grow_optimizer_state
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.model.config import MoEConfig
from lit_recycle.module import LitMoE
from lit_recycle.strategies import FSDP2Strategy, FSDPStrategy


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
    weights = live.weights(trainer.model)
    saved = live.optimizer_state(trainer.model, optimizer)
    if event.optimizer_state != "reset":
        check_optimizer_state(saved["state"], {n: t.shape for n, t in weights.items()}, name)
    schedules = [c.scheduler.state_dict() for c in trainer.lr_scheduler_configs]

    del optimizer
    strategy.optimizers, strategy.lr_scheduler_configs = [], []
    module.set_shape(config, module.growth)
    strategy.connect(module)
    gc.collect()  # wrappers and their hooks refer to each other

    with torch.device("meta"):
        model = module.build()
    grown = grow_tensors(plan, NATIVE, weights)
    if isinstance(strategy, FSDPStrategy):  # wraps the module when it is set up: weights can only come after
        strategy.growing = True
        strategy.setup(trainer)
        live.load_weights(trainer.model, dict(grown))
    else:
        if isinstance(strategy, FSDP2Strategy):
            strategy.shard(model)
        module.load_state_dict(dict(grown), assign=True)
        model.tie_weights()
        strategy.setup(trainer)

    (optimizer,) = trainer.optimizers
    saved["state"] = grow_optimizer_state(plan, NATIVE, saved["state"], event.optimizer_state, name)
    live.load_optimizer_state(trainer.model, optimizer, saved)
    for scheduler, state in zip(trainer.lr_scheduler_configs, schedules, strict=True):
        scheduler.scheduler.load_state_dict(state)


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
    if type(trainer.strategy) not in (SingleDeviceStrategy, DDPStrategy, FSDPStrategy, FSDP2Strategy):
        name = type(trainer.strategy).__name__
        raise ValueError(f"growth does not work under {name}: set trainer.strategy to auto, ddp, fsdp or fsdp2")
