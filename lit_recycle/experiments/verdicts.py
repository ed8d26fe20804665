"""Verdicts on the paper's claims: results agree with one, contradict it, or lie inside the noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lit_recycle.experiments.definition import Expectation, Experiment
from lit_recycle.experiments.figures import label
from lit_recycle.experiments.results import METRICS, Result, Results, difference, spread


def verdicts(experiment: Experiment, results: Results) -> list[str]:
    """A line of Markdown per comparison that the experiment expects."""
    lines = []
    for expected in experiment.expect:
        for where, first, second in _pairs(experiment, expected):
            lines.append("- " + verdict(expected, where, results.at(experiment, first), results.at(experiment, second)))
    return [*lines, ""] if lines else []


def correlations(experiment: Experiment, results: Results) -> list[str]:
    """How a metric goes with an axis of numbers: each seed's own correlation, then mean and standard error of those.

    Not of an experiment that asks how variants differ, whose figure has ``against``.
    """
    axis = experiment.figure.get("x")
    if axis is None or "against" in experiment.figure:
        return []
    lines: dict[str, dict[int, list[tuple[float, Result]]]] = {}
    for point, _ in experiment.variants:
        name = label({a: text for a, text in point.items() if a != axis})
        for run in results.at(experiment, point):
            lines.setdefault(name, {}).setdefault(run["seed"], []).append((float(point[axis]), run))
    said = []
    for name, by_seed in lines.items():
        whole = [pairs for pairs in by_seed.values() if len(pairs) == len(experiment.axes[axis])]
        if not whole:
            continue
        for metric in ("loss", "accuracy"):
            mean, error, n = spread(
                [_correlation([(x, run["metrics"][metric]) for x, run in pairs]) for pairs in whole]
            )
            of = f"*{name}*: c" if name else "C"
            sign = f"{mean:+.2f}" + (f" ± {error:.2f}" if n > 1 else "")
            seeds = f"{n} seed{'s' if n > 1 else ''}"
            said.append(f"- {of}orrelation of {METRICS[metric]} with {experiment.figure['xlabel']}: {sign} ({seeds}).")
    return [*said, ""] if said else []


def _correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Pearson's."""
    return float(np.corrcoef(np.array(pairs).T)[0, 1])


def _pairs(experiment: Experiment, expected: Expectation) -> list[tuple[str, dict[str, str], dict[str, str]]]:
    """Points that differ in the expectation's axis alone."""
    axis = next(a for a, labels in experiment.axes.items() if expected.better in labels and expected.worse in labels)
    pairs = []
    for point, _ in experiment.variants:
        if point[axis] == expected.better and all(point[a] == text for a, text in expected.where.items()):
            rest = label({f"{a} {t}": f"{a} {t}" for a, t in point.items() if a != axis})
            pairs.append((rest, point, point | {axis: expected.worse}))
    return pairs


def verdict(expected: Expectation, where: str, first: Sequence[Result], second: Sequence[Result]) -> str:
    """A sentence: the difference with its error, and what it says of the paper's claim."""
    claim = f"*{expected.better}* better than *{expected.worse}*" + (f" at {where}" if where else "")
    claim += f", by {METRICS[expected.by]}"
    found = difference(first, second, expected.by)
    if found is None:
        return f"{claim}: not measured yet."
    mean, error, n = found.spread
    if expected.by == "accuracy":
        number = f"{mean * 100:+.1f}" + (f" ± {error * 100:.1f}" if n > 1 else "") + " points"
    else:
        number = f"{mean:+.4f}" + (f" ± {error:.4f}" if n > 1 else "")
    meaning = {
        "agrees": "**agrees with the claim**",
        "contradicts": "**contradicts the claim**",
        "inside the noise": "**inside the noise**",
        "one seed only": "**one seed only, which says nothing of the spread**",
    }[found.verdict]
    return f"{claim}: {number} ({n} seed{'s' if n > 1 else ''}); {meaning}."
