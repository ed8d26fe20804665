"""Base class of monitors: when they look, and which loggers they write to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from typing_extensions import override

from lit_recycle.data.batches import Batch
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.shape import experts_by_layer
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.loggers import Picture, holders

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class GrowthHooks:
    """What GrowthCallback calls on every callback that has it, wherever it stands in the list."""

    def on_growth_start(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent) -> None:
        """Right before a growth, the model still small."""

    def on_growth_end(self, trainer: L.Trainer, module: GrowableModule, record: Mapping[str, Any]) -> None:
        """Right after a growth; ``record`` is its :class:`GrowthRecord` as a dict."""


class Monitor(GrowthHooks, L.Callback):
    """Looks at a run after whole optimizer steps, every so often; never changes it.

    A point lies where Lightning puts the loss of the same step: s for the step that began after s optimizer steps.
    All processes compute, because weights may be sharded; the first one writes.

    Args:
        every_n_steps: Distance of scalar points; ``trainer.log_every_n_steps`` when not given.
        plot_every_n_steps: Distance of pictures; 0 for none. One more is made at the end of the run.
    """

    def __init__(self, every_n_steps: int | None = None, plot_every_n_steps: int = 0) -> None:
        name = type(self).__name__
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"{name}.every_n_steps must be at least 1, got {every_n_steps}: leave the callback out")
        if plot_every_n_steps < 0:
            raise ValueError(f"{name}.plot_every_n_steps must not be negative, got {plot_every_n_steps}")
        self.every_n_steps, self.plot_every_n_steps = every_n_steps, plot_every_n_steps
        self._seen = 0

    # --- what a monitor fills in -------------------------------------------------------------------------------------

    def on_step(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """After every optimizer step. Must not wait for the device."""

    def scalars(self, trainer: L.Trainer, module: GrowableModule) -> Mapping[str, float]:
        """Values of the step that has just been taken, equal on all processes."""
        return {}

    def pictures(self, trainer: L.Trainer, module: GrowableModule) -> Iterable[Picture]:
        """What is drawn; the numbers are computed by all processes, the drawing is done by the first."""
        return ()

    # --- when --------------------------------------------------------------------------------------------------------

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._seen = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: GrowableModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step == self._seen:  # in the middle of accumulating gradients
            return
        self._seen = step
        with torch.no_grad():
            self.on_step(trainer, pl_module)
            interval = self.every_n_steps or trainer.log_every_n_steps  # type: ignore[attr-defined]
            if is_multiple(step, interval):
                write_scalars(trainer, self.scalars(trainer, pl_module), step - 1)
            if is_multiple(step, self.plot_every_n_steps) or (self.plot_every_n_steps and step == trainer.max_steps):
                write_pictures(trainer, self.pictures(trainer, pl_module), step - 1)


def is_multiple(step: int, interval: int) -> bool:
    """Whether something that happens every ``interval`` steps happens at this one; 0 is never."""
    return interval > 0 and step % interval == 0


def write_scalars(trainer: L.Trainer, values: Mapping[str, float], step: int) -> None:
    """To every logger that is configured."""
    if values:
        for logger in trainer.loggers:
            logger.log_metrics(dict(values), step=step)


def write_pictures(trainer: L.Trainer, pictures: Iterable[Picture], step: int) -> None:
    """To every logger that holds them. ``pictures`` is gone through on every process, for it may compute together."""
    here = holders(trainer)
    for picture in pictures:
        if here:
            image = picture.image()
            for holder in here:
                holder.picture(picture, image, step)


def writers(trainer: L.Trainer) -> list[SummaryWriter]:
    """TensorBoard's writers; none on other processes than the first."""
    if not trainer.is_global_zero:
        return []
    return [logger.experiment for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def some_layers(layers: Sequence[Any], at_most: int) -> list[int]:
    """Positions in ``layers`` that get curves of their own: all, or so many evenly spread from first to last."""
    count = len(layers)
    if count <= at_most:
        return list(range(count))
    if at_most < 2:
        return list(range(at_most))
    return [round(i * (count - 1) / (at_most - 1)) for i in range(at_most)]


def moe_layers(module: GrowableModule) -> list[int]:
    """Numbers of the layers that have experts: the rows of ``module.counts_LE``."""
    return [i for i, count in enumerate(experts_by_layer(module.shape)) if count]
