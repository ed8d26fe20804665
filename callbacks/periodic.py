"""Base class of evaluations in a run: at intervals, and right before and after each growth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import lightning as L
from typing_extensions import override

from lit_recycle.callbacks.monitor import GrowthHooks, is_multiple
from lit_recycle.data.batches import Batch
from lit_recycle.data.module import TextData
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.training.growable import GrowableModule


class PeriodicEvaluation(GrowthHooks, L.Callback, ABC):
    """Looks at the model at the beginning of a run, every so often, around each growth, and at the run's end.

    A point lies where Lightning puts the loss of the same step: s for the step that began after s optimizer steps.

    Args:
        every_n_steps: Distance in steps; 0 for the beginning, the growths and the end alone.
    """

    def __init__(self, every_n_steps: int) -> None:
        if every_n_steps < 0:
            raise ValueError(f"{type(self).__name__}.every_n_steps must not be negative, got {every_n_steps}")
        self.every_n_steps = every_n_steps
        self._seen = 0

    @abstractmethod
    def evaluate(self, trainer: L.Trainer, module: GrowableModule, data: TextData, step: int) -> None:
        """Look at the model, in evaluation mode, on all processes together; what is found belongs to ``step``."""

    def _evaluate(self, trainer: L.Trainer, module: GrowableModule, step: int) -> None:
        data, name = trainer.datamodule, type(self).__name__  # type: ignore[attr-defined]
        if not isinstance(data, TextData):
            raise ValueError(f"{name} needs the tokenizer of TextData, and the data is {type(data).__name__}")
        module.eval()
        self.evaluate(trainer, module, data, step)
        module.train()

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._seen = trainer.global_step
        if not trainer.global_step:
            self._evaluate(trainer, pl_module, 0)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: GrowableModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step != self._seen and (is_multiple(step, self.every_n_steps) or step == trainer.max_steps):
            self._evaluate(trainer, pl_module, step - 1)
        self._seen = step

    @override
    def on_growth_start(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent) -> None:
        self._evaluate(trainer, module, max(trainer.global_step - 1, 0))

    @override
    def on_growth_end(self, trainer: L.Trainer, module: GrowableModule, record: Mapping[str, Any]) -> None:
        self._evaluate(trainer, module, record["steps"])
