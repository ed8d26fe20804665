"""Warm-up of the batch size: optimizer steps that begin with few micro-batches and get more of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import lightning as L
from typing_extensions import override

from lit_recycle.data.batch_warmup import Batches, BatchStage, BatchWarmup
from lit_recycle.data.batches import Batch
from lit_recycle.data.pace import Pace, micro_batches_of
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.rewarm import rate_factor, unwarm, unwarm_after_steps, warm


class BatchSizeWarmup(L.Callback):
    """Trains with few micro-batches per optimizer step first, and with ``trainer.accumulate_grad_batches`` in the end.

    The number changes between two steps, where a multiple of the new one lies behind: with powers of two less than
    new/old steps after the stage's end. Schedules of the rate count optimizer steps, as ever.

    Args:
        stages: Each has ``accumulate``, micro-batches per optimizer step, and ``until``, in ``tokens`` or ``steps``
            from the beginning of the run.
        sqrt_rate: Multiply the learning rate by √(new/old) at each change: the schedule's is that of the first stage.

    Raises:
        ValueError: A value is out of range.

    Example::

        >>> from lit_recycle.callbacks import BatchSizeWarmup
        >>> from lit_recycle.data.batch_warmup import BatchStage
        >>> from lit_recycle.data.span import Span
        >>> warmup = BatchSizeWarmup([BatchStage(1, Span(tokens=1e9)), BatchStage(2, Span(tokens=4e9))])
    """

    def __init__(self, stages: list[BatchStage], sqrt_rate: bool = False) -> None:
        self.warmup = BatchWarmup(tuple(stages), sqrt_rate)
        self._batches: Batches | None = None

    def paced(self, pace: Pace) -> Pace:
        """See :class:`lit_recycle.data.pace.SetsPace`."""
        return replace(pace, batches=self._batches) if self._batches else pace.with_batch_warmup(self.warmup)

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        self._batches = self.warmup.batches(trainer.accumulate_grad_batches)
        every = getattr(trainer, "val_check_interval", None)  # not there for a time, which the module refuses
        for stage_of_run in self.warmup.stages:
            if isinstance(every, int) and every % stage_of_run.accumulate:
                raise ValueError(
                    f"trainer.val_check_interval {every} must be a multiple of BatchSizeWarmup's accumulate "
                    f"{stage_of_run.accumulate}: a checkpoint from within a step could not be resumed exactly"
                )

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        unwarm_after_steps(trainer.optimizers[0])

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._prepare_step(trainer, pl_module)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: GrowableModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._prepare_step(trainer, pl_module)

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: GrowableModule, checkpoint: dict[str, Any]) -> None:
        for saved in checkpoint["optimizer_states"]:
            unwarm(saved["param_groups"])

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if self._batches:
            trainer.accumulate_grad_batches, self._batches = self._batches.full, None

    def rate_factor(self, trainer: L.Trainer, module: GrowableModule) -> float:
        """See :class:`lit_recycle.training.rewarm.RateFactor`."""
        return self.warmup.rate_factor(self._accumulate(trainer, module))

    def _accumulate(self, trainer: L.Trainer, module: GrowableModule) -> int:
        """Micro-batches of the next step."""
        assert self._batches is not None
        done = module.progress
        return self._batches.at(done.steps, done.tokens, micro_batches_of(trainer))

    def _prepare_step(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """Set the size and the rate of the next step."""
        accumulate = self._accumulate(trainer, module)
        if accumulate != trainer.accumulate_grad_batches:
            trainer.accumulate_grad_batches = accumulate
            if read_anew := getattr(trainer.datamodule, "read_anew", None):  # type: ignore[attr-defined]
                read_anew()
        warm(trainer.optimizers, rate_factor(trainer, module))
