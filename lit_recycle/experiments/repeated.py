"""Results made again, elsewhere or from scratch: whether their means agree with the first ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from lit_recycle.experiments.comparison import METRICS
from lit_recycle.experiments.definition import Experiment, label
from lit_recycle.experiments.results import Result, Results, Spread, spread

WITHIN = 2.0
"""Standard errors of the difference within which two means agree. Of two times three seeds one pair in nine is further
apart by chance."""
COMPARED = ("loss", "accuracy")
ANOTHER_CPU = (
    "on another CPU sums differ in their last bits, and training does not forget it. A comparison whose sides ran on "
    "different CPUs has that in it, and says so"
)


class Repeat(NamedTuple):
    """A metric's mean at a point of an experiment, and the mean of the same runs made again.

    Attributes:
        name: Experiment and point.
        metric: Name of the metric.
        first: Over the seeds that both have.
        again: Over the same seeds.
        note: Why they are not the same runs; empty where they are.
    """

    name: str
    metric: str
    first: Spread
    again: Spread
    note: str = ""

    @property
    def difference(self) -> float:
        return self.again.mean - self.first.mean

    @property
    def error(self) -> float:
        """Standard error of the difference; nan for a single seed, which has no spread."""
        return math.hypot(self.first.error, self.again.error)

    @property
    def verdict(self) -> str:
        if math.isnan(self.error):
            return "one seed only"
        return "agrees" if abs(self.difference) <= WITHIN * self.error else "differs"

    @property
    def row(self) -> tuple[str, ...]:
        """Name, metric, both means, their difference with its standard error, and whether they agree."""
        return (
            self.name,
            METRICS[self.metric],
            f"{self.first.mean:.4f}",
            f"{self.again.mean:.4f}",
            f"{self.difference:+.4f}" + ("" if math.isnan(self.error) else f" ± {self.error:.4f}"),
            self.verdict + (f" ({self.note})" if self.note else ""),
        )


HEAD = ("variant", "metric", "mean", "mean again", "difference", "within two standard errors")


def repeats(experiments: Sequence[Experiment], first: Results, again: Results) -> list[Repeat]:
    """All means that both folders have, over the seeds that both have; of runs that experiments share, once.

    Each folder has its own best value of a setting that is tuned.

    Raises:
        ValueError: They were made from different texts, whose losses have nothing to do with each other.
    """
    texts = [{run["corpus"] for run in results.by_key.values() if "corpus" in run} for results in (first, again)]
    if texts[0] and texts[1] and texts[0] != texts[1]:
        raise ValueError(
            f"{first.folder} and {again.folder} are of different texts (the standard libraries of two versions of "
            "Python): compare results of the same one"
        )
    found: list[Repeat] = []
    seen: set[str] = set()
    for experiment in sorted(experiments, key=lambda e: -sum(bool(again.at(e, point)) for point, _ in e.variants)):
        for point, _ in experiment.variants:
            one, other = ({run["seed"]: run for run in of.at(experiment, point)} for of in (first, again))
            seeds = [seed for seed in one if seed in other and other[seed]["key"] not in seen]
            seen |= {other[seed]["key"] for seed in seeds}
            note = _note([one[seed] for seed in seeds], [other[seed] for seed in seeds])
            for metric in COMPARED if seeds else ():
                before, after = (spread([runs[s]["metrics"][metric] for s in seeds]) for runs in (one, other))
                found.append(Repeat(f"{experiment.name}: {label(point)}", metric, before, after, note))
    return found


def _note(first: Sequence[Result], again: Sequence[Result]) -> str:
    if [run["key"] for run in first] == [run["key"] for run in again]:
        return ""
    values = [", ".join(f"{value:g}" for value in run.get("tuned", {}).values()) for run in (first[0], again[0])]
    return f"best value {values[0]}, then {values[1]}"


def repeated_section(experiments: Sequence[Experiment], results: Results) -> str:
    """Markdown on the runs in ``again`` beside the results; empty without any."""
    again = Results(results.folder / "again")
    found = repeats(experiments, results, again) if again.files else []
    if not found:
        return ""
    agree = sum(one.verdict == "agrees" for one in found)
    both = [(results.by_key[key], run) for key, run in again.by_key.items() if key in results.by_key]
    apart = sorted(abs(one["metrics"]["loss"] - other["metrics"]["loss"]) for one, other in both)
    machines = [sorted({pair[i]["machine"] for pair in both}) for i in range(2)]
    table = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    why = "" if machines[0] == machines[1] else f": {ANOTHER_CPU}"
    return "\n".join(
        [
            "## Made again",
            "",
            f"{len(both)} runs were made once more, from nothing and with the same seeds, on {', '.join(machines[1])}; "
            f"the first time it was {', '.join(machines[0])}. {agree} of {len(found)} means agree within two standard "
            f"errors of the difference. The losses of single runs are {median(apart):.4f} apart in the median and "
            f"{apart[-1]:.4f} at the most{why}.",
            "",
            *table,
            *("| " + " | ".join(one.row) + " |" for one in found),
            "",
            "`make reproduce ONLY=NAME` does this for any experiment, with the Python of the text above.",
            "",
        ]
    )
