"""Forgetting monitor: validation losses against those before training and before the last growth."""

from __future__ import annotations

from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from typing_extensions import override

from lit_recycle.callbacks.monitor import GrowthHooks, write_scalars
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.module import LitMoE


class ForgettingMonitor(GrowthHooks, L.Callback):
    """Logs, under ``forgetting/``, after each validation and for each validation set, in nats per token:

    - ``<name>_since_start``: loss minus that of the model with which the run began, before any training;
    - ``<name>_since_growth``: loss minus that right before the last growth.

    ``<name>`` is that of a source or of `data.val`, and ``split`` stands for what was split off from all sources. Below
    zero is learnt, above it forgotten. At the start of a run and before each growth all sets are validated on once
    more, with as many batches as Lightning takes.
    """

    def __init__(self) -> None:
        self.at_start: dict[str, float] = {}
        self.before_growth: dict[str, float] = {}

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"at_start": dict(self.at_start), "before_growth": dict(self.before_growth)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.at_start, self.before_growth = dict(state_dict["at_start"]), dict(state_dict["before_growth"])

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        if not self.at_start:
            self.at_start = measure(trainer, pl_module)

    @override
    def on_growth_start(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent) -> None:
        self.before_growth = measure(trainer, module)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        values = {}
        for since, before in (("start", self.at_start), ("growth", self.before_growth)):
            for name, loss in before.items():
                tag = "loss/val" if name == "split" else f"loss/val_{name}"
                if tag in trainer.callback_metrics:
                    values[f"forgetting/{name}_since_{since}"] = float(trainer.callback_metrics[tag]) - loss
        write_scalars(trainer, values, trainer.global_step - 1)


@torch.no_grad()
def measure(trainer: L.Trainer, module: GrowableModule) -> dict[str, float]:
    """Loss on each validation set by name, and on the split, over all processes; nothing where none is validated on."""
    loaders = trainer.val_dataloaders or []
    loaders = loaders if isinstance(loaders, list) else [loaders]
    limits = trainer.num_val_batches
    if not loaders or not sum(limits) or not isinstance(module, LitMoE):
        return {}
    module.eval()
    module.on_validation_epoch_start()
    with isolate_rng():  # an iterator over a loader draws a number, and monitors change nothing
        for number, (loader, limit) in enumerate(zip(loaders, limits, strict=True)):
            for index, batch in enumerate(islice(loader, int(limit))):
                trainer.strategy.validation_step(trainer.strategy.batch_to_device(batch), index, number)
    values = module.validation_values()
    module.train()
    split = {"split": float(values["loss/val"])} if any(part.is_split for part in module.val_sets) else {}
    names = [part.name for part in module.val_sets if part.name]
    return split | {name: float(values[f"loss/val_{name}"]) for name in names}
