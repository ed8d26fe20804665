"""Checkpoint at the end of a run."""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from lit_recycle.checkpoints.apart import save_apart
from lit_recycle.checkpoints.io import finish_saves
from lit_recycle.training.growable import GrowableModule


class SaveAtEnd(L.Callback):
    """Saves ``end-step=N.ckpt`` where a run ends at a step that ``ModelCheckpoint`` has not saved.

    Lightning's saves at its interval alone, and what comes after the last of these is the end of the decay. Nothing is
    saved in a run without ``ModelCheckpoint``.
    """

    def __init__(self) -> None:
        self._saved = -1

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._saved = trainer.global_step

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        keepers = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint)]
        saves_itself = any(c.save_last and not c.last_model_path for c in keepers)
        if not keepers or saves_itself or self._saved == trainer.global_step:
            return
        save_apart(trainer, "end")
        finish_saves(trainer)
