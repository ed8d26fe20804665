"""Time that processes wait for each other within a step."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import lightning as L
from typing_extensions import override

from lit_recycle.callbacks.monitor import GrowthHooks
from lit_recycle.data.batches import Batch
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.peers import set_timeout


class WaitingTime(GrowthHooks, L.Callback):
    """Lets processes wait less for each other within training steps than while one of them may be busy alone.

    A step takes seconds, and a process that is minutes late is lost: the others end, and a scheduler can start the run
    again. Starting, saving, validating, growing, and the first step after each (which may compile) have the strategy's
    own ``timeout``.

    Args:
        minutes: How long a process waits for the others within a training step.
    """

    def __init__(self, minutes: float = 2.0) -> None:
        if not minutes > 0:
            raise ValueError(f"WaitingTime.minutes must be positive, got {minutes}")
        self.minutes = minutes
        self._short = False

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: GrowableModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not self._short and trainer.world_size > 1:
            limit = getattr(trainer.strategy, "_timeout", None)  # Lightning has no public name for it
            short = timedelta(minutes=self.minutes)
            set_timeout(min(short, limit) if limit else short)
            self._short = True

    def _long(self, trainer: L.Trainer) -> None:
        if self._short:
            set_timeout(getattr(trainer.strategy, "_timeout", None) or timedelta(minutes=10))
            self._short = False

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._long(trainer)

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._long(trainer)

    @override
    def on_growth_start(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent) -> None:
        self._long(trainer)

    @override
    def on_growth_end(self, trainer: L.Trainer, module: GrowableModule, record: Mapping[str, Any]) -> None:
        self._long(trainer)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._long(trainer)
