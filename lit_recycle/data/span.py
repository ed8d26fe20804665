"""Stretches of a run, in optimizer steps or tokens. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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


def check_order(what: str, ends: Sequence[Span]) -> None:
    """Raises ValueError for ends of stages that do not follow each other."""
    if len({end.unit for end in ends}) > 1:
        raise ValueError(f"{what}.stages: until must be in steps for all stages, or in tokens for all")
    if (values := [end.length for end in ends]) != sorted(set(values)):
        raise ValueError(f"{what}.stages: until must grow from stage to stage, got {values}")
