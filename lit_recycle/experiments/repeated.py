"""Results made again, elsewhere or from scratch: whether their means agree with the first ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median
from typing import NamedTuple

from lit_recycle.experiments.definition import Experiment
from lit_recycle.experiments.figures import label
from lit_recycle.experiments.results import METRICS, Results, Spread, spread

WITHIN = 2.0
"""Standard errors of the difference within which two means agree; by chance one in twenty does not."""
COMPARED = ("loss", "accuracy")


class Repeat(NamedTuple):
    """A metric's mean at a point of an experiment, and the mean of the same runs made again."""

    experiment: str
    point: str
    metric: str
    first: Spread
    again: Spread

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


def repeats(experiments: Sequence[Experiment], first: Results, again: Results) -> list[Repeat]:
    """All means that both folders have, over the seeds that both have; of runs that experiments share, once.

    Raises:
        ValueError: They were made from different texts, whose losses have nothing to do with each other.
    """
    texts = [
        {result["corpus"] for result in results.by_key.values() if "corpus" in result} for results in (first, again)
    ]
    if texts[0] and texts[1] and texts[0] != texts[1]:
        raise ValueError(
            f"{first.folder} and {again.folder} are of different texts (the standard libraries of two versions of "
            "Python): compare results of the same one"
        )
    found: list[Repeat] = []
    seen: set[str] = set()
    for experiment in sorted(experiments, key=lambda e: -sum(bool(again.at(e, point)) for point, _ in e.variants)):
        for point, _ in experiment.variants:
            both = [{run["key"]: run for run in of.at(experiment, point)} for of in (first, again)]
            keys = both[0].keys() & both[1].keys() - seen
            seen |= keys
            for metric in COMPARED if keys else ():
                means = [spread([runs[key]["metrics"][metric] for key in sorted(keys)]) for runs in both]
                found.append(Repeat(experiment.name, label(point), metric, *means))
    return found


def rows(found: Sequence[Repeat]) -> list[tuple[str, ...]]:
    """A table: variant, metric, both means, their difference with its standard error, and whether they agree."""
    return [
        (
            f"{one.experiment}: {one.point}",
            METRICS[one.metric],
            f"{one.first.mean:.4f}",
            f"{one.again.mean:.4f}",
            f"{one.difference:+.4f}" + ("" if math.isnan(one.error) else f" ± {one.error:.4f}"),
            one.verdict,
        )
        for one in found
    ]


HEAD = ("variant", "metric", "mean", "mean again", "difference", "within two standard errors")


def repeated_section(experiments: Sequence[Experiment], results: Results) -> str:
    """Markdown on the runs in ``again`` beside the results; empty without any."""
    again = Results(results.folder / "again")
    found = repeats(experiments, results, again) if again.files else []
    if not found:
        return ""
    names = {one.experiment for one in found}
    ran = [run for e in experiments if e.name in names for run in results.runs(e) if again.get(run)]
    machines = sorted({again.by_key[run.key]["machine"] for run in ran})
    agree = sum(one.verdict == "agrees" for one in found)
    apart = sorted(
        abs(again.by_key[key]["metrics"]["loss"] - results.by_key[key]["metrics"]["loss"])
        for key in {run.key for run in ran}
    )
    table = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    return "\n".join(
        [
            "## Made again",
            "",
            f"An experiment that was chosen by lot, {', '.join(f'*{name}*' for name in sorted(names))}, was run once "
            f"more from nothing, in a fresh clone on {', '.join(machines)}: {len({run.key for run in ran})} runs with "
            f"the same seeds. {agree} of {len(found)} means agree within two standard errors of the difference. The "
            f"losses of single runs are {median(apart):.4f} apart in the median and {apart[-1]:.4f} at the most: sums "
            "of another CPU differ in their last bits, and training does not forget it.",
            "",
            *table,
            *("| " + " | ".join(row) + " |" for row in rows(found)),
            "",
            "`make reproduce ONLY=NAME` does this for any of them.",
            "",
        ]
    )
