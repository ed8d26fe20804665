"""Compute saved: what one run has spent when it is where another one ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lit_recycle.experiments.results import Result

STEPS, TOKENS, FLOPS, CPU_SECONDS, LOSS = range(5)
"""Columns of a curve."""


class Ratio(NamedTuple):
    """Of what the other run has spent at its end."""

    flops: float
    cpu_seconds: float


class Saved(NamedTuple):
    """Seeds that both have, and the ratios of those in which the loss was reached."""

    seeds: int
    reached: list[Ratio]


def compute_saved(runs: Sequence[Result], rivals: Sequence[Result]) -> Saved | None:
    """Seed by seed, the compute at which ``runs`` reach the final loss of ``rivals``; None without common seeds."""
    ends = {rival["seed"]: rival["curve"][-1] for rival in rivals}
    pairs = [(run["curve"], ends[run["seed"]]) for run in runs if run["seed"] in ends]
    if not pairs:
        return None
    reached = []
    for curve, end in pairs:
        if (there := reaching(curve, end[LOSS])) is not None:
            reached.append(Ratio(there[0] / end[FLOPS], there[1] / end[CPU_SECONDS]))
    return Saved(len(pairs), reached)


def reaching(curve: Sequence[Sequence[float]], loss: float) -> tuple[float, float] | None:
    """FLOPs and CPU seconds at which a curve falls to ``loss`` for good, between points in a straight line."""
    if curve[-1][LOSS] > loss:
        return None
    last = max((i for i, row in enumerate(curve) if row[LOSS] > loss), default=None)
    if last is None:
        return curve[0][FLOPS], curve[0][CPU_SECONDS]
    before, after = curve[last], curve[last + 1]
    share = (before[LOSS] - loss) / (before[LOSS] - after[LOSS])
    flops, cpu = (before[c] + share * (after[c] - before[c]) for c in (FLOPS, CPU_SECONDS))
    return flops, cpu
