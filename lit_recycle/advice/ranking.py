"""How often a loss law puts two ways of spending compute in the right order, when it has seen nothing like them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import NamedTuple

from lit_recycle.advice.law import Finished, fit, without
from lit_recycle.experiments.results import spread

CLEAR = 2.0
"""Standard errors by which two means must differ for their order to be known."""


class Case(NamedTuple):
    """Two kinds of runs whose order is known.

    Attributes:
        first: Group and variant of one.
        second: Of the other.
        measured: Mean loss of the first minus that of the second.
        predicted: The same, by the law of runs of other sizes and tokens.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    measured: float
    predicted: float

    @property
    def is_right(self) -> bool:
        return self.measured * self.predicted > 0


def cases(runs: Sequence[Finished]) -> Iterator[Case]:
    """Pairs of one group that differ in the way: small to the end, grown, or large from the beginning."""
    by_kind: dict[tuple[str, str], list[Finished]] = {}
    for run in runs:
        by_kind.setdefault(run.kind, []).append(run)
    smallest: dict[str, int] = {}
    for run in runs:
        smallest[run.group] = min(smallest.get(run.group, run.parts[0].params), run.parts[0].params)
    for (first, ours), (second, theirs) in combinations(sorted(by_kind.items()), 2):
        if first[0] != second[0] or _way(ours[0], smallest) == _way(theirs[0], smallest):
            continue
        one, other = (spread([run.loss for run in kind]) for kind in (ours, theirs))
        measured = one.mean - other.mean
        if min(one.n, other.n) > 1 and abs(measured) > CLEAR * math.hypot(one.error, other.error):
            law = fit(without(runs, ours[0].parts, theirs[0].parts))
            yield Case(first, second, measured, law(ours[0].parts) - law(theirs[0].parts))


def _way(run: Finished, smallest: dict[str, int]) -> str:
    if len(run.parts) > 1:
        return "grown"
    return "small" if run.parts[0].params == smallest[run.group] else "from scratch"
