"""A small run with every monitor on, and its logs as TensorBoard's own reader gives them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from runs import PROCESSES, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from lit_recycle.callbacks import ComputeMonitor, ExpertLoadMonitor, GrowthMonitor, TensorBoardLayout, WeightNormMonitor
from lit_recycle.model.experts import Router
from lit_recycle.training.module import LitMoE

STEPS = 9
TOKENS_PER_STEP = 4 * 32


def monitors() -> list[L.Callback]:
    return [
        TensorBoardLayout(),
        ExpertLoadMonitor(1, plot_every_n_steps=4, max_layers=2),
        WeightNormMonitor(1, plot_every_n_steps=4, max_layers=2),
        GrowthMonitor(1, compare_every_n_steps=1, plot_every_n_steps=4, smoothing=2, max_layers=2),
        ComputeMonitor(),
    ]


def monitored(root: Path, strategy: str = "auto", **options: Any) -> tuple[LitMoE, list[float]]:
    """The run of `runs.fit`, logged at every step and validated at every second, with all monitors."""
    tensorboard = TensorBoardLogger(root, name="", version="", default_hp_metric=False)
    callbacks = [*monitors(), CountByHand(root), *options.pop("callbacks", [])]
    _, module, losses = fit(
        root,
        strategy,
        logger=[tensorboard, CSVLogger(root / "csv", name="", version="")],
        log_every_n_steps=1,
        val_check_interval=2,
        limit_val_batches=1,
        callbacks=callbacks,
        **{"saves": (3, 6, 9), **options},
    )
    return module, losses


class CountByHand(L.Callback):
    """Writes down which experts this process's routers chose, token by token, without the project's own counting."""

    def __init__(self, root: Path) -> None:
        self.path = root / f"chosen-{os.environ.get('RANK', 0)}-of-{os.environ.get(PROCESSES, 1)}.pt"
        self.steps: list[list[list[int]]] = []
        self._chosen: list[list[int]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: LitMoE, *_: Any) -> None:
        self._chosen = []
        self._hooks = [r.register_forward_hook(self._note) for r in pl_module.model.modules() if isinstance(r, Router)]

    def _note(self, router: Router, inputs: Any, outputs: tuple[Tensor, Tensor, Any]) -> None:
        counts = [0] * router.config.num_experts
        for expert in outputs[1].flatten().tolist():
            counts[expert] += 1
        self._chosen.append(counts)

    def on_train_batch_end(self, *_: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        self.steps.append(self._chosen)

    def on_fit_end(self, *_: Any) -> None:
        torch.save(self.steps, self.path)


def counts_by_hand(root: Path, step: int) -> Tensor:
    """Tokens of each layer's experts in a step, summed over processes, ``[L, E]``."""
    return sum(torch.tensor(torch.load(path)[step]) for path in root.glob("chosen-*.pt"))


class Log:
    """One folder of event files."""

    def __init__(self, folder: Path) -> None:
        self.events = EventAccumulator(str(folder), size_guidance=dict.fromkeys(("scalars", "tensors", "images"), 0))
        self.events.Reload()

    @property
    def tags(self) -> list[str]:
        return self.events.Tags()["scalars"]

    def points(self, tag: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in self.events.Scalars(tag)]

    def value(self, tag: str, step: int) -> float:
        """The one point of a step; fails where there is none, or more than one."""
        (value,) = [value for at, value in self.points(tag) if at == step]
        return value
