"""Record of a run in numbers, kept in its checkpoints, from which experiments are made."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from typing_extensions import override

from lit_recycle.callbacks.monitor import GrowthHooks
from lit_recycle.data.batches import Batch
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.training import named_state
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.weight_stats import norm_profile


class RunRecord(GrowthHooks, L.Callback):
    """Keeps, across interruptions and growths:

    - the curve of the validation loss: rows of steps, tokens, FLOPs, seconds of the processor, nats per token;
    - the seconds that training took, by the clock and by the processor, all processes that were killed left out;
    - the profile of weight norms right before each growth.

    It is all in its ``state_dict``, under ``callbacks`` in any checkpoint. After the last step it saves one itself.

    Args:
        end: Where to save the checkpoint after the last step; none when not given.
        progress: A file for the present step, written about once a second for whoever watches; none when not given.
    """

    def __init__(self, end: str | None = None, progress: str | None = None) -> None:
        self.end, self.progress = end, progress
        self.curve: list[list[float]] = []
        self.profiles: list[dict[str, Any]] = []
        self.seconds = self.cpu_seconds = 0.0
        self._told = 0.0

    @override
    def state_dict(self) -> dict[str, Any]:
        self._lap()
        return {
            "curve": [list(row) for row in self.curve],
            "profiles": list(self.profiles),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curve, self.profiles = state_dict["curve"], state_dict["profiles"]
        self.seconds, self.cpu_seconds = state_dict["seconds"], state_dict["cpu_seconds"]

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._clock, self._cpu = time.perf_counter(), time.process_time()

    def _lap(self) -> None:
        clock, cpu = time.perf_counter(), time.process_time()
        self.seconds += clock - self._clock
        self.cpu_seconds += cpu - self._cpu
        self._clock, self._cpu = clock, cpu

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        if trainer.sanity_checking:
            return
        self._lap()
        done = pl_module.progress
        loss = float(trainer.callback_metrics["loss/val"])
        self.curve.append([done.steps, done.tokens, done.flops, round(self.cpu_seconds, 2), loss])

    @override
    def on_growth_start(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent) -> None:
        assert trainer.model is not None
        with torch.no_grad():
            norms = norm_profile(named_state.weights(trainer.model), module.shape.naming).tolist()
        self.profiles.append({"steps": trainer.global_step, "flops": module.flops_spent, "norms": norms})

    @override
    def on_growth_end(self, trainer: L.Trainer, module: GrowableModule, record: Mapping[str, Any]) -> None:
        self.profiles[-1] |= {"loss_before": record["loss_before"], "loss_after": record["loss_after"]}

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: GrowableModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if self.progress and trainer.is_global_zero and time.monotonic() > self._told + 1:
            self._told = time.monotonic()
            Path(self.progress).write_text(json.dumps(trainer.global_step), encoding="utf-8")
        whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if self.end and whole_step and trainer.global_step == trainer.max_steps:
            trainer.save_checkpoint(self.end, weights_only=False)
