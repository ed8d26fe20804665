"""Graceful interruption and preemption: a signal ends the step, saves, and puts a SLURM job into the queue again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from types import FrameType
from typing import Any

import lightning as L
from typing_extensions import override

from lit_recycle.callbacks.summary import resume_command
from lit_recycle.checkpoints.apart import save_apart
from lit_recycle.checkpoints.io import finish_saves
from lit_recycle.data.batches import Batch
from lit_recycle.training.growable import GrowableModule

PREEMPTION = signal.SIGUSR1
"""What ``sbatch --signal=USR1@120`` sends before the time of a job is over."""
SIGNALS = (signal.SIGINT, signal.SIGTERM, PREEMPTION)


class SaveOnInterrupt(L.Callback):
    """Saves a checkpoint when a run is interrupted, after the optimizer step at hand, on all processes.

    SIGINT, SIGTERM and SIGUSR1 are taken over for the time of training: Lightning ends at SIGTERM, and saves at
    SIGUSR1, in the middle of an optimizer step. A second one stops at once and saves nothing. After SIGUSR1 a SLURM job
    is put into the queue again; with ``--ckpt_path last`` it goes on, in the shape that it has grown to.

    Args:
        dirpath: Folder of the checkpoint, or an address (``s3://…``); when not given, the address of
            ``ModelCheckpoint`` where it has one, or ``checkpoints`` in the trainer's root folder.
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self._interrupted = self._preempted = False
        self._speaks = False
        self._previous: dict[signal.Signals, Any] = {}

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._speaks = trainer.is_global_zero
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._preempted and number == PREEMPTION:  # both srun and the shell of the job may hand it on
            return
        self._preempted |= number == PREEMPTION
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        if self._speaks:  # past Python's buffers, which the signal may have interrupted
            os.write(2, b"\ninterrupted: finishing the step and saving; once more stops at once\n")

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: GrowableModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches:
            return
        if trainer.strategy.reduce_boolean_decision(self._interrupted, all=False):
            self._save(trainer)
            if trainer.strategy.reduce_boolean_decision(self._preempted, all=False) and trainer.is_global_zero:
                requeue()
            raise KeyboardInterrupt

    @override
    def on_exception(self, trainer: L.Trainer, pl_module: GrowableModule, exception: BaseException) -> None:
        self._restore()

    @override
    def teardown(self, trainer: L.Trainer, pl_module: GrowableModule, stage: str) -> None:
        self._restore()

    def _save(self, trainer: L.Trainer) -> None:
        path = save_apart(trainer, "interrupt", self.dirpath)
        finish_saves(trainer)
        trainer.print(f"saved {path}\ngo on: {resume_command()}")

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}


def requeue() -> None:
    """Put this SLURM job, or task of a job array, into the queue again; says so where it cannot."""
    job = os.environ.get("SLURM_JOB_ID")
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"job {job} could not be put into the queue again ({error}): submit it anew", file=sys.stderr)
    else:
        print(f"job {job} is in the queue again")
