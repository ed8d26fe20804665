"""Callbacks that kill their own process at a chosen point of a run, without any warning."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import torch

import lit_recycle.callbacks.growth
from lit_recycle.callbacks.monitor import GrowthHooks
from lit_recycle.checkpoints import atomic, background, sharded


class Kill(L.Callback):
    """SIGKILL.

    Args:
        at: ``step=N``, after the optimizer step and before anything is saved; ``anchor=N``, when the anchor is
            saved; ``grown=N``, when the model has grown and nothing has recorded it; ``saving=N``, in the middle of
            writing the checkpoint of a step; ``saved=N``, when it is whole and not yet in its place; ``end``, after
            the last step. ``hang=N`` and ``sleep=N`` are ``step=N`` for a process that is stopped, or asleep, instead.
        rank: The process that is killed; all of them when not given.
    """

    def __init__(self, at: str, rank: int | None = None) -> None:
        self.moment, _, step = at.partition("=")
        self.step, self.rank = int(step or -1), rank

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.trainer = trainer
        if self.moment == "grown":
            self._after(lit_recycle.callbacks.growth, "grow_in_run")
        elif self.moment == "anchor":
            self._after(trainer, "save_checkpoint", name=f"anchor-step={self.step}.ckpt")
        elif self.moment == "saving":
            self._halfway()
            self._some_shards()
        elif self.moment == "saved":
            self._before(os, "fsync")
            self._before(sharded, "take_place")

    def _kill(self) -> None:
        if self.rank not in (None, self.trainer.global_rank):
            return
        if self.moment == "sleep":
            time.sleep(600)
        else:
            os.kill(os.getpid(), signal.SIGSTOP if self.moment == "hang" else signal.SIGKILL)

    def _due(self) -> bool:
        return self.trainer.global_step == self.step

    def _after(self, owner: Any, name_of_function: str, name: str = "") -> None:
        function = getattr(owner, name_of_function)

        def wrapped(*args: Any, **kwargs: Any) -> None:
            function(*args, **kwargs)
            if self._due() and (not name or Path(args[0]).name == name):
                self._kill()

        setattr(owner, name_of_function, wrapped)

    def _before(self, owner: Any, name_of_function: str) -> None:
        function = getattr(owner, name_of_function)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if self._due():
                self._kill()
            return function(*args, **kwargs)

        setattr(owner, name_of_function, wrapped)

    def _halfway(self) -> None:
        save = torch.save

        def half(checkpoint: Any, path: Any) -> None:
            save(checkpoint, path)
            if self._due():
                os.truncate(path, Path(path).stat().st_size // 2)
                self._kill()

        atomic.torch = SimpleNamespace(save=half)

    def _some_shards(self) -> None:
        write = sharded.write_shards

        def half(tensors: Any, part: Path, *args: Any) -> Any:
            written = write(tensors, part, *args)
            if self._due():
                for shard in part.glob(f"__{self.trainer.global_rank}_*"):
                    os.truncate(shard, shard.stat().st_size // 2)
                self._kill()
            return written

        sharded.write_shards = half

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if self.moment in ("step", "hang", "sleep") and self._due():
            self._kill()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.moment == "end":
            self._kill()


class KillAttempt(Kill):
    """Kills in one attempt of torchrun alone; the first is 0."""

    def __init__(self, at: str, rank: int | None = None, attempt: int = 0) -> None:
        super().__init__(at, rank)
        self.attempt = attempt

    def _due(self) -> bool:
        return super()._due() and os.environ.get("TORCHELASTIC_RESTART_COUNT") == str(self.attempt)


class Signal(L.Callback):
    """A signal to this process in the middle of the step after ``step``, as a terminal or a scheduler sends it."""

    def __init__(self, number: int, step: int = 2) -> None:
        self.number, self.step = number, step

    def on_before_backward(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            os.kill(os.getpid(), self.number)


class SlowSave(L.Callback):
    """The first process is busy for some seconds with the checkpoint of step 3."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_save_checkpoint(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == 3 and trainer.is_global_zero:
            time.sleep(self.seconds)


class KillWriting(GrowthHooks, L.Callback):
    """SIGKILL while the checkpoint of a step is written in the background, training having gone on meanwhile.

    Args:
        step: The step.
        moment: ``begun``, before anything is written; ``half``, a file of it cut off at ``share``; ``whole``, before it
            is in its place; ``placed``, right after that.
        share: Of the file, for ``half``.
        rank: The process that is killed; all of them when not given.
    """

    def __init__(self, step: int, moment: str, share: float = 0.5, rank: int | None = None) -> None:
        self.step, self.moment, self.share, self.rank = step, moment, share, rank
        self.gone_on = threading.Event()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.trainer, save, begin = trainer, trainer.save_checkpoint, background.Background.save
        names = []  # of what is being saved: an anchor of the same step is not meant

        def named(path: Any, *args: Any, **kwargs: Any) -> None:
            names.append(Path(path).name)
            save(path, *args, **kwargs)

        def killed(saver: Any, checkpoint: Any, write: Any, needs_peers: bool) -> None:
            doomed = names[-1] == f"step={self.step}.ckpt"
            begin(saver, checkpoint, (lambda copy: self._write(write, copy)) if doomed else write, needs_peers)

        trainer.save_checkpoint, background.Background.save = named, killed

    def _write(self, write: Any, copy: Any) -> None:
        self.gone_on.wait(20)
        assert self.gone_on.is_set(), "training has not gone on"
        if self.moment == "begun":
            self._kill()
        elif self.moment == "half":
            self._cut_off()
        elif self.moment == "whole":
            self._before(atomic)
            self._before(sharded)
        write(copy)
        self._kill()

    def _kill(self) -> None:
        if self.rank in (None, self.trainer.global_rank):
            os.kill(os.getpid(), signal.SIGKILL)

    def _cut_off(self) -> None:
        save, shards = torch.save, sharded.write_shards

        def half(checkpoint: Any, path: Any) -> None:
            save(checkpoint, path)
            self._cut(path)

        def halves(tensors: Any, part: Path, *args: Any) -> Any:
            written = shards(tensors, part, *args)
            if self.share < 0.5:  # a shard is cut off, or else the file that is written last
                self._cut(sorted(part.glob("__*"))[0])
            return written

        if self.trainer.strategy.__class__.__name__ == "FSDP2Strategy":
            sharded.write_shards = halves
        atomic.torch = SimpleNamespace(save=half)

    def _cut(self, path: Any) -> None:
        os.truncate(path, int(Path(path).stat().st_size * self.share))
        self._kill()

    def _before(self, owner: Any) -> None:
        take_place = owner.take_place

        def killed(part: Path, path: Path) -> None:
            self._kill()
            take_place(part, path)

        owner.take_place = killed

    def on_before_optimizer_step(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:  # of the step after it
            self.gone_on.set()

    def on_growth_start(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.gone_on.set()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.gone_on.set()
