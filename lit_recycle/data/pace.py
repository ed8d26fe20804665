"""Pace of a run: how many tokens each of its optimizer steps has, and in which samples. No torch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol, Self, runtime_checkable

from lit_recycle.data.batch_warmup import Batches, BatchWarmup
from lit_recycle.data.length_warmup import Lengths, LengthWarmup, fixed
from lit_recycle.data.span import FOREVER

WARMUPS = ("SequenceLengthWarmup", "BatchSizeWarmup")
"""Names of the callbacks that change the size of steps by themselves."""


@dataclass(frozen=True)
class Step:
    """Size of an optimizer step.

    Attributes:
        seq_len: Tokens per sample.
        rows: Samples of a micro-batch of one process.
        accumulate: Micro-batches.
        tokens: Of all processes.
        holds: Number of steps, from this one on, that surely have this size.
    """

    seq_len: int
    rows: int
    accumulate: int
    tokens: int
    holds: int = FOREVER


@dataclass(frozen=True)
class Pace:
    """Size of each optimizer step of a run.

    Args:
        seq_len: Tokens per sample, at full length.
        tokens_per_batch: Tokens per process and micro-batch, at full length.
        processes: Number of processes.
        batches: Micro-batches per optimizer step.
        lengths: Tokens per sample; None where that stays at ``seq_len``.
        constant_tokens: Shorter samples are more samples.
    """

    seq_len: int
    tokens_per_batch: int
    processes: int
    batches: Batches
    lengths: Lengths | None = None
    constant_tokens: bool = False

    @classmethod
    def even(cls, seq_len: int, tokens_per_batch: int, processes: int = 1, accumulate: int = 1) -> Self:
        """All steps have one size."""
        return cls(seq_len, tokens_per_batch, processes, Batches((), accumulate))

    def step(self, steps: int, tokens: int, micro_batches: int) -> Step:
        """The next step of a run that has come so far."""
        lengths = self.lengths or fixed(self.seq_len)
        seq_len, accumulate = lengths.at(steps, tokens), self.batches.at(steps, tokens, micro_batches)
        batch_size, per_batch = self.tokens_per_batch // self.seq_len, self.tokens_per_batch
        rows = rows_of(batch_size, self.seq_len, seq_len) if self.constant_tokens else batch_size
        if seq_len != self.seq_len:
            per_batch = rows * seq_len
        size = per_batch * accumulate * self.processes
        holds = min(
            lengths.holds(steps, tokens, size),
            self.batches.holds(steps, tokens, micro_batches, size),
        )
        return Step(seq_len, rows, accumulate, size, holds)

    @property
    def full(self) -> Step:
        """The last step of a run that is long enough."""
        return replace(self, batches=Batches((), self.batches.full), lengths=fixed(self.seq_len)).step(0, 0, 0)

    def with_length(self, seq_len: int, who: str) -> Pace:
        """The pace with one length from now on; raises ValueError for one above the full length."""
        if seq_len > self.seq_len:
            raise ValueError(
                f"{who} sets {seq_len} tokens per sample, more than the full length, data.seq_len {self.seq_len}: "
                "raise that; GrowthCallback.start_seq_len is the length before the first growth that sets one"
            )
        return replace(self, lengths=fixed(seq_len))

    def with_growing_length(self, seq_len: int | None, constant_tokens: bool) -> Pace:
        """The pace of a run whose growths set the length, which now is `seq_len`; raises ValueError as the next one."""
        self._check_free()
        pace = self.with_length(self.seq_len if seq_len is None else seq_len, "GrowthCallback.start_seq_len")
        return replace(pace, constant_tokens=constant_tokens)

    def with_length_warmup(self, warmup: LengthWarmup) -> Pace:
        """The pace with a warm-up of the length; raises ValueError for one that does not fit, or a second one."""
        self._check_free()
        return replace(self, lengths=warmup.lengths(self.seq_len), constant_tokens=warmup.constant_tokens)

    def _check_free(self) -> None:
        if self.lengths is not None:
            raise ValueError(
                "SequenceLengthWarmup and the growths' seq_len both set the length of samples: take one of them"
            )

    def with_batch_warmup(self, warmup: BatchWarmup) -> Pace:
        """The pace with a warm-up of the batch size, towards the number of micro-batches that it has."""
        return replace(self, batches=warmup.batches(self.batches.full))

    def tokens_until(self, max_steps: int, steps: int = 0, tokens: int = 0, micro_batches: int = 0) -> int:
        """Tokens of the whole run at its end, from those that it has at a step."""
        while steps < max_steps:
            step = self.step(steps, tokens, micro_batches)
            taken = min(step.holds, max_steps - steps)
            steps, tokens = steps + taken, tokens + taken * step.tokens
            micro_batches += taken * step.accumulate
        return tokens


def rows_of(batch_size: int, full: int, seq_len: int) -> int:
    """Samples of a length that have about as many tokens as a batch at full length: as many as there is room for."""
    return max(batch_size * full // seq_len, 1)


@runtime_checkable
class SetsPace(Protocol):
    """A callback that changes the size of steps."""

    def paced(self, pace: Pace) -> Pace:
        """A run's pace with what the callback makes of it.

        Raises:
            ValueError: It does not fit the data, or another callback.
        """


def pace_of(trainer: Any, data: Any) -> Pace:
    """The pace of a trainer's run with a data module and callbacks; raises ValueError where they do not fit."""
    pace = Pace.even(data.seq_len, data.tokens_per_batch, trainer.world_size, trainer.accumulate_grad_batches)
    for callback in trainer.callbacks:
        if isinstance(callback, SetsPace):
            pace = callback.paced(pace)
    return pace


def micro_batches_of(trainer: Any) -> int:
    """Micro-batches that a trainer has behind it; Lightning ends an optimizer step at multiples of this count."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.processed


@runtime_checkable
class ResizableData(Protocol):
    """A data module whose training samples can be cut to another length."""

    seq_len: int
    """Tokens per sample, at full length."""
    tokens_per_batch: int
    """Tokens of a batch of one process, at full length."""

    def set_length(self, length: int, *, constant_tokens: bool = False) -> None:
        """Cut training samples to another length, from the next optimizer step on."""


def check_resizable(data: object, callback: str) -> None:
    """Raises ValueError for a data module whose samples cannot be cut."""
    if not isinstance(data, ResizableData):
        what = f"{type(data).__name__} has no such method" if data else "there is none"
        raise ValueError(
            f"{callback} cuts training samples by set_length of the data module, and {what}: take TextData, or write it"
        )
