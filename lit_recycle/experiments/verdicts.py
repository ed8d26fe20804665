"""Verdicts on claims: results agree with one, contradict it, or lie inside the noise; and what nobody claims."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lit_recycle.experiments.comparison import METRICS, Comparison
from lit_recycle.experiments.definition import Experiment, label
from lit_recycle.experiments.results import Difference, Noise, Result, Results, difference, noise_of, spread


def verdicts(experiment: Experiment, results: Results) -> list[str]:
    """A line of Markdown per comparison of the experiment."""
    sides = {label(point): results.at(experiment, point) for point, _ in experiment.variants}
    pairs = [
        (said, where, label(first), label(second))
        for said in experiment.expect
        for where, first, second in said.pairs([point for point, _ in experiment.variants])
    ]
    noises = {}
    for metric in {said.by for said, *_ in pairs}:
        of_metric = [(first, second) for said, _, first, second in pairs if said.by == metric]
        found = [(a, b, difference(sides[a], sides[b], metric)) for a, b in of_metric]
        noises[metric] = noise_of([(a, b, change) for a, b, change in found if change])
    lines = [f"- {verdict(said, where, sides[a], sides[b], noises[said.by])}" for said, where, a, b in pairs]
    return [*lines, ""] if lines else []


def correlations(experiment: Experiment, results: Results) -> list[str]:
    """How a metric goes with an axis of numbers: each seed's own correlation, then mean and standard error of those.

    Of what has grown: a model that is large from the beginning is another kind of run, and no point of the same line.
    Not of an experiment that asks how variants differ, whose figure has ``against``.
    """
    axis = experiment.figure.get("x")
    if axis is None or "against" in experiment.figure:
        return []
    lines: dict[str, dict[int, list[tuple[float, Result]]]] = {}
    grown = [point for point, settings in experiment.variants if settings.sunk]
    for point in grown:
        name = label({a: text for a, text in point.items() if a != axis})
        for run in results.at(experiment, point):
            lines.setdefault(name, {}).setdefault(run["seed"], []).append((float(point[axis]), run))
    said = []
    for name, by_seed in lines.items():
        whole = [pairs for pairs in by_seed.values() if len(pairs) == len({point[axis] for point in grown})]
        if not whole:
            continue
        for metric in ("loss", "accuracy"):
            over_seeds = spread([_correlation([(x, run["metrics"][metric]) for x, run in pairs]) for pairs in whole])
            of = f"*{name}*: c" if name else "C"
            seeds = f"{over_seeds.n} seed{'s' if over_seeds.n > 1 else ''}"
            xlabel = experiment.figure["xlabel"]
            told = f"{over_seeds.text(2, '+')} ({seeds})"
            said.append(f"- {of}orrelation of {METRICS[metric]} with {xlabel}, of what has grown: {told}.")
    return [*said, ""] if said else []


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's."""
    return float(np.corrcoef(np.array(pairs).T)[0, 1])


def verdict(
    said: Comparison, where: str, first: Sequence[Result], second: Sequence[Result], noise: Noise | None = None
) -> str:
    """A sentence: the difference with its error, and what it says of the claim, if there is one."""
    relation = {"better": "better than", "equal": "as good as", None: "against"}[said.claim]
    pair = f"*{said.first}* {relation} *{said.second}*" + (f" at {where}" if where else "")
    pair += f", by {METRICS[said.by]}"
    found = difference(first, second, said.by)
    if found is None:
        return f"{pair}: not measured yet."
    n = found.spread.n
    number = found.spread.times(100).text(1, "+") + " points" if said.by == "accuracy" else found.spread.text(4, "+")
    apart = "" if _machines(first) == _machines(second) else ", on different CPUs"
    return f"{pair}: {number} ({n} seed{'s' if n > 1 else ''}{apart}); **{_meaning(said, found, noise)}**."


def _machines(runs: Sequence[Result]) -> set[str]:
    return {run.get("machine", "") for run in runs}


def _meaning(said: Comparison, found: Difference, noise: Noise | None) -> str:
    """What a difference says of a claim; without one, who is ahead."""
    if found.spread.n < 2:
        return "one seed only, which says nothing of the spread"
    if not found.is_clear(noise):
        return "inside the noise, as the claim has it" if said.claim == "equal" else "inside the noise"
    if said.claim is None:
        return f"{said.first if found.is_better else said.second} is better"
    return "agrees with the claim" if said.claim == "better" and found.is_better else "contradicts the claim"
