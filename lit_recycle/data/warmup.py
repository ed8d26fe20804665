"""Warm-ups of the sequence length and of the batch size: what each is at every step of a run. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

FOREVER = 1 << 62
"""More optimizer steps than any run has."""


@dataclass(frozen=True)
class Span:
    """A stretch from the beginning of a run; exactly one is given.

    Args:
        steps: Optimizer steps.
        tokens: Tokens trained on by all processes.
    """

    steps: int | None = None
    tokens: float | None = None

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give exactly one of steps and tokens")
        if not 0 < self.length < math.inf:
            raise ValueError(f"{self.unit} must be above 0, got {self.length}")

    @property
    def unit(self) -> str:
        return "tokens" if self.steps is None else "steps"

    @property
    def length(self) -> float:
        value = self.tokens if self.steps is None else self.steps
        assert value is not None
        return value

    def done(self, steps: int, tokens: int) -> float:
        """How much of it lies behind a run that has come so far, in its unit."""
        return tokens if self.steps is None else steps

    def steps_left(self, steps: int, tokens: int, tokens_per_step: int) -> int:
        """Optimizer steps that begin within it; 0 when it is over."""
        missing = math.ceil(self.length - self.done(steps, tokens))
        return max(missing if self.steps is not None else -(-missing // tokens_per_step), 0)


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
        return 1 if self.over.done(steps, tokens) < self.over.length else FOREVER


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


@dataclass(frozen=True)
class BatchStage:
    """A stretch of a run with one number of micro-batches per optimizer step.

    Args:
        accumulate: Micro-batches per optimizer step.
        until: Where it ends, from the beginning of the run.
    """

    accumulate: int
    until: Span


@dataclass(frozen=True)
class Batches:
    """Number of micro-batches per optimizer step over a run.

    It changes where a multiple of the new number lies behind, for Lightning counts micro-batches from the beginning:
    where numbers are powers of two, less than new/old optimizer steps late.

    Args:
        stages: In order of time.
        full: Number after them.
    """

    stages: tuple[BatchStage, ...]
    full: int

    def wanted(self, steps: int, tokens: int) -> tuple[int, ...]:
        """The numbers up to the present one; the last one is due."""
        over = sum(s.until.done(steps, tokens) >= s.until.length for s in self.stages)
        return (*(stage.accumulate for stage in self.stages), self.full)[: over + 1]

    def at(self, steps: int, tokens: int, micro_batches: int) -> int:
        """Of the next step of a run that has so many micro-batches behind it."""
        return next((n for n in reversed(self.wanted(steps, tokens)) if micro_batches % n == 0), 1)

    def holds(self, steps: int, tokens: int, micro_batches: int, tokens_per_step: int) -> int:
        """Number of steps, from that one on, that surely have as many."""
        wanted = self.wanted(steps, tokens)
        if micro_batches % wanted[-1]:
            return 1
        if len(wanted) > len(self.stages):
            return FOREVER
        return self.stages[len(wanted) - 1].until.steps_left(steps, tokens, tokens_per_step)


@dataclass(frozen=True)
class BatchWarmup:
    """A warm-up of the batch size, as a user writes it.

    Args:
        stages: Micro-batches per optimizer step; after the last one ``trainer.accumulate_grad_batches``.
        sqrt_rate: Multiply the learning rate by √(micro-batches / those of the first stage).

    Raises:
        ValueError: A value is out of range.
    """

    stages: tuple[BatchStage, ...]
    sqrt_rate: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "stages", tuple(self.stages or ()))
        if not self.stages:
            raise ValueError("BatchSizeWarmup.stages is empty: list at least one stage, or leave the callback out")
        if wrong := [stage.accumulate for stage in self.stages if stage.accumulate < 1]:
            raise ValueError(f"BatchSizeWarmup: accumulate must be at least 1, got {wrong[0]}")
        check_order("BatchSizeWarmup", [stage.until for stage in self.stages])

    def batches(self, full: int) -> Batches:
        """Micro-batches per optimizer step over a run that has so many in the end."""
        return Batches(self.stages, full)

    def rate_factor(self, accumulate: int) -> float:
        """What the rate of a step with so many micro-batches is multiplied by."""
        return (accumulate / self.stages[0].accumulate) ** 0.5 if self.sqrt_rate else 1.0


def check_order(what: str, ends: Sequence[Span]) -> None:
    """Raises ValueError for ends of stages that do not follow each other."""
    if len({end.unit for end in ends}) > 1:
        raise ValueError(f"{what}.stages: until must be in steps for all stages, or in tokens for all")
    if (values := [end.length for end in ends]) != sorted(set(values)):
        raise ValueError(f"{what}.stages: until must grow from stage to stage, got {values}")
