"""Checkpoint outside of the rotation of ModelCheckpoint, under a name of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lit_recycle.addresses import Place, within
from lit_recycle.checkpoints.find import checkpoint_folder

if TYPE_CHECKING:
    from lightning import Trainer


def save_apart(trainer: Trainer, reason: str, dirpath: str | None = None) -> Place:
    """Save ``REASON-step=N.ckpt`` on all processes, and return where it will be: AsyncSave writes it by and by.

    Args:
        trainer: Of a run, between two optimizer steps or at its end.
        reason: What the checkpoint is for, in a word.
        dirpath: Its folder; see :func:`lit_recycle.checkpoints.find.checkpoint_folder`.
    """
    path = within(checkpoint_folder(trainer, dirpath), f"{reason}-step={trainer.global_step}.ckpt")
    trainer.save_checkpoint(path, weights_only=False)
    return path
