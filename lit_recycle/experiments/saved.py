"""Compute saved: what one run has spent when it is where another one ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from lit_recycle.experiments.budgets import stages_of
from lit_recycle.experiments.results import Result
from lit_recycle.growth.schedule import Stage
from lit_recycle.growth.shape import sizes

STEPS, TOKENS, FLOPS, CPU_SECONDS, LOSS = range(5)
"""Columns of a curve."""
Size = tuple[int, int, int]
"""Active parameters, all parameters, tokens of a sample."""


class Ratio(NamedTuple):
    """Of what the other run has spent at its end.

    Attributes:
        flops: Where the curve falls to the other run's loss, in a straight line between its points.
        between: The same at the points before and after.
        seconds: Of training; nan where the speed of a size is not known.
    """

    flops: float
    between: tuple[float, float]
    seconds: float


class Saved(NamedTuple):
    """Seeds that both have, and the ratios of those in which the loss was reached."""

    seeds: int
    reached: list[Ratio]


def compute_saved(runs: Sequence[Result], rivals: Sequence[Result], clock: Clock) -> Saved | None:
    """Seed by seed, the compute at which ``runs`` reach the final loss of ``rivals``; None without common seeds."""
    ends = {rival["seed"]: rival for rival in rivals}
    pairs = [(run, ends[run["seed"]]) for run in runs if run["seed"] in ends]
    if not pairs:
        return None
    reached = []
    for run, rival in pairs:
        end = rival["curve"][-1]
        if (there := reaching(run["curve"], end[LOSS])) is not None:
            before, after, share = there
            steps, flops = (before[c] + share * (after[c] - before[c]) for c in (STEPS, FLOPS))
            between = before[FLOPS] / end[FLOPS], after[FLOPS] / end[FLOPS]
            reached.append(Ratio(flops / end[FLOPS], between, clock(run, steps) / clock(rival, end[STEPS])))
    return Saved(len(pairs), reached)


def reaching(curve: Sequence[Sequence[float]], loss: float) -> tuple[Sequence[float], Sequence[float], float] | None:
    """The points between which a curve falls to ``loss`` for good, and the share of the way; None where it does not."""
    if curve[-1][LOSS] > loss:
        return None
    last = max((i for i, row in enumerate(curve) if row[LOSS] > loss), default=None)
    if last is None:
        return curve[0], curve[0], 0.0
    before, after = curve[last], curve[last + 1]
    return before, after, (before[LOSS] - loss) / (before[LOSS] - after[LOSS])


class Clock:
    """CPU seconds of runs, at the speed of each size when nothing runs beside it.

    Args:
        timed: Runs of one size each that were made for this; those of a seed tell the time of runs of the same seed,
            so that a spread over seeds has that of the timing in it.
    """

    def __init__(self, timed: Sequence[Result]) -> None:
        self.seconds: dict[int, dict[Size, float]] = {}
        for run in timed:
            (stage,) = stages_of(run["fit"])
            self.seconds.setdefault(run["seed"], {})[_size(stage)] = seconds_per_step(run)

    def __call__(self, run: Result, steps: float) -> float:
        """Seconds until a step of a run; nan where a size was not timed."""
        known = self.seconds.get(run["seed"], {})
        stages = [(_size(stage), min(steps, stage.end.steps) - stage.start.steps) for stage in stages_of(run["fit"])]
        return sum(known.get(size, math.nan) * count for size, count in stages if count > 0)


def seconds_per_step(run: Result) -> float:
    """CPU seconds, from the second point of the curve on: before it the process warms up."""
    first, last = run["curve"][0], run["curve"][-1]
    return float((last[CPU_SECONDS] - first[CPU_SECONDS]) / (last[STEPS] - first[STEPS]))


def _size(stage: Stage) -> Size:
    size = sizes(stage.shape)
    return size["active_params"], size["params"], stage.last.seq_len
