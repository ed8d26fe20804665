"""What is known before a schedule is chosen: the model, what it has cost, and what is there to spend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lit_recycle.advice.law import Parts
from lit_recycle.growth.schedule import Progress
from lit_recycle.growth.shape import chinchilla_flops
from lit_recycle.model.config import MoEConfig

PAPER = "arXiv 2510.08008"
"""Where the method is from."""


@dataclass(frozen=True)
class Situation:
    """What is known before a decision.

    Args:
        config: The present shape.
        progress: What the run has spent on it.
        budget: FLOPs that are there to spend.
        before: FLOPs spent on it before the run, whose counters do not know of them.
        profile: Its weight norms, layer by layer, if there is a checkpoint.
        optimizer: Whether the checkpoint brings the optimizer's state; True where training has not begun.
        rate: Present learning rate as a share of the full one, if known.
        past: What it was trained through so far.
        seq_len: Tokens per sample, on which FLOPs per token depend.
    """

    config: MoEConfig
    progress: Progress
    budget: float
    before: float = 0.0
    profile: Sequence[float] | None = None
    optimizer: bool = True
    rate: float | None = None
    past: Parts = ()
    seq_len: int = 0

    @property
    def sunk(self) -> float:
        """FLOPs spent on it so far."""
        return self.before + self.progress.flops

    @property
    def total(self) -> float:
        """FLOPs spent on it in the end."""
        return self.sunk + self.budget

    @property
    def sunk_multiples(self) -> float:
        """Sunk FLOPs in F_c."""
        return self.sunk / chinchilla_flops(self.config)
