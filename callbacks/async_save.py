"""Asynchronous checkpoints: training goes on while they are written."""

from __future__ import annotations

import sys

import lightning as L
from typing_extensions import override

from lit_recycle.callbacks.monitor import GrowthHooks
from lit_recycle.checkpoints.background import Background
from lit_recycle.checkpoints.io import finish_saves, own_io
from lit_recycle.data.batches import Batch
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.peers import is_lost_peer


class AsyncSave(GrowthHooks, L.Callback):
    """Saves every checkpoint of a run without stopping training: of ``ModelCheckpoint``, anchors, and all others.

    A step waits while the checkpoint is copied to CPU memory; a thread writes the copy, on all processes where it is
    sharded. What is written is what would be written without this callback. One save is under way at most: the next
    one waits for it, and so do a growth, an interruption, and the end of a run. Rotations delete a checkpoint when its
    replacement is whole. An error ends the run before the next step.

    Args:
        log_wait: Log ``checkpoint/wait_seconds``: how long training has waited so far for a save before.

    Example::

        >>> from lightning.pytorch.callbacks import ModelCheckpoint
        >>> from lit_recycle.callbacks import AsyncSave
        >>> callbacks = [AsyncSave(), ModelCheckpoint("checkpoints", "{step}", every_n_train_steps=500)]
    """

    def __init__(self, log_wait: bool = False) -> None:
        self.log_wait = log_wait
        self._background: Background | None = None

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        for logger in trainer.loggers:
            if getattr(logger, "_log_model", None) == "all":  # of WandbLogger and MLFlowLogger, without a public name
                raise ValueError(
                    f"{type(logger).__name__}.log_model all sends each checkpoint at once, when AsyncSave has just "
                    "begun to write it: set log_model true, which sends it at the end, or leave AsyncSave out"
                )
        self._background = own_io(trainer.strategy).background = Background()

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: GrowableModule, batch: Batch, batch_idx: int) -> None:
        assert self._background is not None
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._background.check()
        if self.log_wait:
            pl_module.log("checkpoint/wait_seconds", self._background.seconds_waited)

    @override
    def on_growth_start(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent) -> None:
        finish_saves(trainer)

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        finish_saves(trainer)

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """What ends the run is what is told in the end; that a save fails, too, is said besides."""
        if self._background is None:
            return
        try:
            if is_lost_peer(exception):
                self._background.wait_alone()
            else:
                self._background.wait()
        except Exception as error:
            print(f"the checkpoint that was being saved is lost: {error}", file=sys.stderr)
