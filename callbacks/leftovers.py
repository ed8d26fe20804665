"""Removal of what a killed run has left among its checkpoints."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from typing_extensions import override

from lit_recycle.addresses import is_remote
from lit_recycle.checkpoints.find import checkpoint_folders, is_leftover
from lit_recycle.checkpoints.remote import remove_unfinished
from lit_recycle.training.growable import GrowableModule


class RemoveLeftovers(L.Callback):
    """Removes, when a run goes on, what the one before it could not remove because it was killed.

    These are half-written checkpoints, folders that had been replaced, and checkpoints that ``ModelCheckpoint`` had
    left out of its rotation but not yet deleted: older than the checkpoint gone on from, and unknown to it. Checkpoints
    of other names, anchors among them, stay.
    """

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        if not trainer.is_global_zero or trainer.ckpt_path is None:
            return
        source = Path(trainer.ckpt_path)
        folders = checkpoint_folders(trainer)
        removed = [path for folder in folders if isinstance(folder, Path) for path in _halves(folder)]
        unsent = [name for folder in folders if isinstance(folder, str) for name in remove_unfinished(folder)]
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and source.exists():
                removed += _outside(callback, source)
        for path in removed:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if names := sorted([*(path.name for path in removed), *unsent]):
            trainer.print(f"removed what a killed run had left: {', '.join(names)}")


def _halves(folder: Path) -> list[Path]:
    return [path for path in folder.glob(".*.ckpt.*") if is_leftover(path)]


def _outside(callback: ModelCheckpoint, source: Path) -> list[Path]:
    """Checkpoints by this callback's names, older than the one gone on from, that it does not know."""
    if callback.save_top_k < 1 or not callback.best_k_models or callback.dirpath is None or is_remote(callback.dirpath):
        return []
    name = callback.filename or "{epoch}-{step}"
    parts = re.split(r"\{(\w[\w/]*)(?::[^}]*)?\}", name)
    pattern = "".join(re.escape(p) if i % 2 == 0 else rf"{re.escape(p)}=[\d.eE+-]+" for i, p in enumerate(parts))
    known = {Path(p).name for p in (*callback.best_k_models, callback.last_model_path, callback.best_model_path)}
    return [
        path
        for path in Path(callback.dirpath).glob("*.ckpt")
        if re.fullmatch(rf"{pattern}\.ckpt", path.name)
        and path.name not in known
        and path.name != source.name
        and path.stat().st_mtime_ns < source.stat().st_mtime_ns
    ]
