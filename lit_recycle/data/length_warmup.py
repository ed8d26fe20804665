"""Warm-up of the sequence length: tokens per sample at every step of a run, by a formula or by stages. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from lit_recycle.data.span import FOREVER, Span, check_order


@dataclass(frozen=True)
class LengthStage:
    """A stretch of a run with samples of one length.

    Args:
        seq_len: Tokens per sample.
        until: Where it ends, from the beginning of the run.
    """

    seq_len: int
    until: Span


class Lengths(Protocol):
    """Sequence length over a run."""

    def at(self, steps: int, tokens: int) -> int:
        """Of the next step of a run that has come so far."""

    def holds(self, steps: int, tokens: int, tokens_per_step: int) -> int:
        """Number of steps, from that one on, that surely have this length."""


@dataclass(frozen=True)
class LengthFormula:
    """Length of the GPT curriculum (Li et al., arXiv 2108.06084): ⌊start + (full − start)·(t/T)^(1/root)⌋.

    Rounded down to a multiple; after T it is the full one.

    Args:
        start: Length of the first step.
        full: Length in the end.
        over: T.
        root: 1 for a linear growth, 2 for the square root.
        multiple_of: What lengths are multiples of.
    """

    start: int
    full: int
    over: Span
    root: float = 1.0
    multiple_of: int = 8

    def at(self, steps: int, tokens: int) -> int:
        done = self.over.done(steps, tokens) / self.over.length
        if done >= 1:
            return self.full
        grown = round((self.full - self.start) * done ** (1 / self.root), 6)  # what is whole stays whole in floats
        return min(math.floor(self.start + grown) // self.multiple_of * self.multiple_of, self.full)

    def holds(self, steps: int, tokens: int, tokens_per_step: int) -> int:
        length = self.at(steps, tokens)
        if length == self.full:
            return FOREVER
        following = min(length + self.multiple_of, self.full)
        share = ((following - self.start) / (self.full - self.start)) ** self.root
        left = share * self.over.length - self.over.done(steps, tokens)
        return max(int(left / (1 if self.over.unit == "steps" else tokens_per_step)) - 1, 1)  # floats: one step less


@dataclass(frozen=True)
class LengthStages:
    """Lengths written out.

    Args:
        stages: In order of time.
        full: Length after them.
    """

    stages: tuple[LengthStage, ...]
    full: int

    def at(self, steps: int, tokens: int) -> int:
        stage = self._stage(steps, tokens)
        return stage.seq_len if stage else self.full

    def holds(self, steps: int, tokens: int, tokens_per_step: int) -> int:
        stage = self._stage(steps, tokens)
        return stage.until.steps_left(steps, tokens, tokens_per_step) if stage else FOREVER

    def _stage(self, steps: int, tokens: int) -> LengthStage | None:
        return next((s for s in self.stages if s.until.done(steps, tokens) < s.until.length), None)


def fixed(seq_len: int) -> LengthStages:
    """One length for good."""
    return LengthStages((), seq_len)


@dataclass(frozen=True)
class LengthWarmup:
    """A warm-up of the sequence length, as a user writes it: a formula (``start``, ``over``, ``root``) or stages.

    Args:
        start: Tokens per sample in the first step.
        over: Where the full length, ``data.seq_len``, is reached.
        root: 1 for a linear growth, 2 for the square root; see :class:`LengthFormula`.
        stages: Lengths written out, instead; after the last one the full length.
        multiple_of: What all lengths are multiples of.
        constant_tokens: Keep the tokens per optimizer step: shorter samples are more samples. They are at most those at
            full length, and less than a sample per micro-batch fewer where lengths do not divide them.

    Raises:
        ValueError: A value is out of range, or does not fit another.
    """

    start: int | None = None
    over: Span | None = None
    root: float = 1.0
    stages: tuple[LengthStage, ...] = ()
    multiple_of: int = 8
    constant_tokens: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages or ()))
        if bool(self.stages) == (self.start is not None and self.over is not None) or (self.start is None) != (
            self.over is None
        ):
            raise ValueError("SequenceLengthWarmup takes either start and over, or stages")
        if not 0 < self.root < math.inf:
            raise ValueError(f"SequenceLengthWarmup.root must be above 0, got {self.root}")
        if self.multiple_of < 1:
            raise ValueError(f"SequenceLengthWarmup.multiple_of must be at least 1, got {self.multiple_of}")
        check_order("SequenceLengthWarmup", [stage.until for stage in self.stages])
        for length in self._given:
            if length < 1 or length % self.multiple_of:
                raise ValueError(
                    f"SequenceLengthWarmup: {length} tokens per sample are no multiple of {self.multiple_of}: choose "
                    "another length, or set multiple_of"
                )

    @property
    def _given(self) -> list[int]:
        return [stage.seq_len for stage in self.stages] if self.start is None else [self.start]

    def lengths(self, full: int) -> Lengths:
        """Tokens per sample over a run of this full length; raises ValueError for more than that."""
        if max(self._given) > full:
            raise ValueError(
                f"SequenceLengthWarmup: {max(self._given)} tokens per sample are more than the full length, "
                f"data.seq_len {full}: raise that"
            )
        if self.start is None or self.over is None:
            return LengthStages(self.stages, full)
        return LengthFormula(self.start, full, self.over, self.root, self.multiple_of)
