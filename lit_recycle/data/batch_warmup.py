"""Warm-up of the batch size: micro-batches of every optimizer step of a run. No torch."""

from __future__ import annotations

from dataclasses import dataclass

from lit_recycle.data.span import FOREVER, Span, check_order


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
