"""Warm-up of the sequence length: training samples that begin short and grow to their full length."""

from __future__ import annotations

from typing import Any

import lightning as L
from typing_extensions import override

from lit_recycle.data.batches import Batch
from lit_recycle.data.length_warmup import Lengths, LengthStage, LengthWarmup
from lit_recycle.data.pace import Pace, check_resizable
from lit_recycle.data.span import Span
from lit_recycle.training.growable import GrowableModule


class SequenceLengthWarmup(L.Callback):
    """Trains on short samples first, and on samples of the full length, ``data.seq_len``, in the end.

    By the formula of the GPT curriculum (Li et al., arXiv 2108.06084), step t of T having ⌊start + (full − start) ·
    (t/T)^(1/root)⌋ tokens per sample, rounded down to a multiple; or by stages. Short samples are pieces of the full
    ones, one after the other: none is left out, none is seen twice, and a resumed run goes on at the exact token.
    Validation is at full length throughout.

    Args:
        start: Tokens per sample in the first step.
        over: T, in ``steps`` or ``tokens`` from the beginning of the run.
        root: 1 for a linear growth, 2 for the square root.
        stages: Lengths written out, instead: each has ``seq_len`` and ``until``, in ``steps`` or ``tokens``.
        multiple_of: What all lengths are multiples of.
        constant_tokens: Keep the tokens per optimizer step, with more samples in it while they are short. Otherwise
            the samples stay as many, and short ones make a smaller step.

    Raises:
        ValueError: A value is out of range, or does not fit another.

    Example::

        >>> from lit_recycle.callbacks import SequenceLengthWarmup
        >>> from lit_recycle.data.span import Span
        >>> warmup = SequenceLengthWarmup(start=64, over=Span(steps=1000))
    """

    def __init__(
        self,
        start: int | None = None,
        over: Span | None = None,
        root: float = 1.0,
        stages: list[LengthStage] | None = None,
        multiple_of: int = 8,
        constant_tokens: bool = False,
    ) -> None:
        self.warmup = LengthWarmup(start, over, root, tuple(stages or ()), multiple_of, constant_tokens)
        self._lengths: Lengths | None = None

    def paced(self, pace: Pace) -> Pace:
        """See :class:`lit_recycle.data.pace.SetsPace`."""
        return pace.with_length_warmup(self.warmup)

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit":
            data = trainer.datamodule  # type: ignore[attr-defined]
            check_resizable(data, type(self).__name__)
            self._lengths = self.warmup.lengths(data.seq_len)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._set_length(trainer, pl_module)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: GrowableModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._set_length(trainer, pl_module)

    def _set_length(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """That of the step to come."""
        assert self._lengths is not None
        done = module.progress
        trainer.datamodule.set_length(  # type: ignore[attr-defined]
            self._lengths.at(done.steps, done.tokens), constant_tokens=self.warmup.constant_tokens
        )
