"""Compute saved: what one run has spent when it is where another one ends."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from lit_recycle.experiments.budgets import stages_of
from lit_recycle.experiments.results import Result
from lit_recycle.growth.schedule import Stage
from lit_recycle.growth.shape import sizes

STEPS, TOKENS, FLOPS, CPU_SECONDS, LOSS = range(5)
"""Columns of a curve."""
Size = tuple[int, int]
"""Active and all parameters."""
UNDISTURBED = 0.1
"""Share of a size's stretches that are as fast: other processes make the rest slower, and by turns."""


class Ratio(NamedTuple):
    """Of what the other run has spent at its end."""

    flops: float
    seconds: float


class Saved(NamedTuple):
    """Seeds that both have, and the ratios of those in which the loss was reached."""

    seeds: int
    reached: list[Ratio]


def compute_saved(runs: Sequence[Result], rivals: Sequence[Result]) -> Saved | None:
    """Seed by seed, the compute at which ``runs`` reach the final loss of ``rivals``; None without common seeds."""
    ends = {rival["seed"]: rival for rival in rivals}
    pairs = [(run, ends[run["seed"]]) for run in runs if run["seed"] in ends]
    if not pairs:
        return None
    clock, reached = Clock([*runs, *rivals]), []
    for run, rival in pairs:
        end = rival["curve"][-1]
        if (there := reaching(run["curve"], end[LOSS])) is not None:
            steps, flops = there
            reached.append(Ratio(flops / end[FLOPS], clock(run, steps) / clock(rival, end[STEPS])))
    return Saved(len(pairs), reached)


def reaching(curve: Sequence[Sequence[float]], loss: float) -> tuple[float, float] | None:
    """Steps and FLOPs at which a curve falls to ``loss`` for good, between points in a straight line."""
    if curve[-1][LOSS] > loss:
        return None
    last = max((i for i, row in enumerate(curve) if row[LOSS] > loss), default=None)
    if last is None:
        return curve[0][STEPS], curve[0][FLOPS]
    before, after = curve[last], curve[last + 1]
    share = (before[LOSS] - loss) / (before[LOSS] - after[LOSS])
    steps, flops = (before[c] + share * (after[c] - before[c]) for c in (STEPS, FLOPS))
    return steps, flops


class Clock:
    """CPU seconds of runs on one machine, at the speed that each size reaches undisturbed, whatever ran beside them.

    Args:
        runs: Those whose curves tell the speeds. The machine is the one that all their sizes were trained on; where
            there is none, seconds are not a number.
    """

    def __init__(self, runs: Sequence[Result]) -> None:
        found: dict[str, dict[Size, list[float]]] = {}
        for run in runs:
            for size, seconds in _paces(run):
                found.setdefault(run["machine"], {}).setdefault(size, []).append(seconds)
        every = {_size(stage) for run in runs for stage in stages_of(run["fit"])}
        whole = [by_size for by_size in found.values() if by_size.keys() == every]
        best = max(whole, key=lambda by_size: sum(map(len, by_size.values())), default={})
        self.seconds = {size: float(np.quantile(best[size], UNDISTURBED)) if best else math.nan for size in every}

    def __call__(self, run: Result, steps: float) -> float:
        """Seconds until a step of a run."""
        stages = [(_size(stage), min(steps, stage.end.steps) - stage.start.steps) for stage in stages_of(run["fit"])]
        return sum(self.seconds[size] * count for size, count in stages if count > 0)


def _paces(run: Result) -> Iterator[tuple[Size, float]]:
    """Seconds per step of every stretch of a curve that lies within one stage."""
    stages = stages_of(run["fit"])
    for before, after in pairwise(run["curve"]):
        for stage in stages:
            if stage.start.steps <= before[STEPS] and after[STEPS] <= stage.end.steps:
                yield _size(stage), (after[CPU_SECONDS] - before[CPU_SECONDS]) / (after[STEPS] - before[STEPS])


def _size(stage: Stage) -> Size:
    size = sizes(stage.shape)
    return size["active_params"], size["params"]
