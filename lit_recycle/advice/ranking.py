"""How often a loss law puts two ways of spending compute in the right order, when it has seen nothing like them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

from lit_recycle.advice.law import Finished, Parts, fit, tokens_of, without
from lit_recycle.experiments.results import spread

CLEAR = 2.0
"""Standard errors by which two means must differ for their order to be known."""
EQUAL = 1.1
"""By what factor FLOPs, of six per active parameter and token, may differ that are called equal."""

PRUNED = "pruned"


class Case(NamedTuple):
    """Two kinds of runs whose order is known.

    Attributes:
        first: Group and variant of one.
        second: Of the other.
        measured: Mean loss of the first minus that of the second.
        predicted: The same, by the law of runs unlike both.
        more_tokens: Whether the better one has seen more tokens, which is what a law has to beat.
        is_equal: Whether they cost the same.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    measured: float
    predicted: float
    more_tokens: bool
    is_equal: bool

    @property
    def is_right(self) -> bool:
        return self.measured * self.predicted > 0


def cases(runs: Sequence[Finished], members: Sequence[Finished] | None = None) -> Iterator[Case]:
    """Pairs of one group that differ in the way: small to the end, grown, or large from the beginning.

    What is pruned goes none of these ways, and a pair that several groups have is one.

    Args:
        runs: What laws are fitted on.
        members: The runs of every group, where one run may belong to several; ``runs`` when not given.
    """
    members = runs if members is None else members
    by_kind: dict[tuple[str, str], list[Finished]] = {}
    smallest: dict[str, int] = {}
    for run in members:
        by_kind.setdefault(run.kind, []).append(run)
        smallest[run.group] = min(smallest.get(run.group, run.parts[0].params), run.parts[0].params)
    ways = {kind: _way(found[0], smallest[found[0].group]) for kind, found in by_kind.items()}
    compared: set[frozenset[Hashable]] = set()
    for (first, ours), (second, theirs) in combinations(sorted(by_kind.items()), 2):
        pair = frozenset(tuple(sorted((run.parts, run.loss) for run in kind)) for kind in (ours, theirs))
        if first[0] != second[0] or len({ways[first], ways[second]} - {PRUNED}) < 2 or pair in compared:
            continue
        compared.add(pair)
        one, other = (spread([run.loss for run in kind]) for kind in (ours, theirs))
        measured = one.mean - other.mean
        if min(one.n, other.n) > 1 and abs(measured) > CLEAR * math.hypot(one.error, other.error):
            here, there = ours[0].parts, theirs[0].parts
            law = fit(without(runs, here, there))
            more = (tokens_of(here) > tokens_of(there)) == (measured < 0)
            equal = 1 / EQUAL < _flops(here) / _flops(there) < EQUAL
            yield Case(first, second, measured, law(here) - law(there), more, equal)


def _flops(parts: Parts) -> float:
    return sum(6 * part.active_params * part.tokens for part in parts)


def _way(run: Finished, smallest: int) -> str:
    if any(after.params < before.params for before, after in pairwise(run.parts)):
        return PRUNED
    if len(run.parts) > 1:
        return "grown"
    return "small" if run.parts[0].params == smallest else "from scratch"
