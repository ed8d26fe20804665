"""Ctrl-C and SIGTERM: finish the step, save, say how to go on."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.utilities.exceptions import SIGTERMException
from typing_extensions import override

from callbacks.summary import resume_command
from lit_recycle.module import Batch, LitMoE


class SaveOnInterrupt(L.Callback):
    """Saves a checkpoint when a run is interrupted, after the optimizer step at hand, on all processes.

    A second Ctrl-C stops at once and saves nothing.

    Args:
        dirpath: Folder of the checkpoint; ``checkpoints`` in the trainer's root folder when not given.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self._interrupted = False
        self._previous: Any = None

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: LitMoE) -> None:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        print("\ninterrupted: finishing the step and saving; once more stops at once", flush=True)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: LitMoE, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.strategy.reduce_boolean_decision(self._interrupted, all=False):
            self._save(trainer)
            raise KeyboardInterrupt

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: LitMoE, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException):
            self._save(trainer)
        self._restore()

    @override
    def teardown(self, trainer: L.Trainer, pl_module: LitMoE, stage: str) -> None:
        self._restore()

    def _save(self, trainer: L.Trainer) -> None:
        folder = Path(self.dirpath) if self.dirpath else Path(trainer.default_root_dir) / "checkpoints"
        path = folder / f"interrupt-step={trainer.global_step}.ckpt"
        trainer.save_checkpoint(path)
        trainer.print(f"saved {path}\ngo on: {resume_command()}")

    def _restore(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None
