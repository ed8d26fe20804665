"""Weighted mixture of sources, computed and not stored: which source stands where in a stream of samples.

The rule for whole proportions p with sum r is that of grain's mix (github.com/google/grain): position k is the interval
[k, k + 1); of a prefix of k positions the first source leaves ⌊k·(r − p₀) / r⌋ to the others, which share those in the
same way. Where the first source does not leave the interval to the others, it stands at k itself. A source's samples
come in the order 0, 1, 2, … without a gap, and its share of every prefix is exact but for a few samples.

Axes: N positions, M sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segment:
    """A stretch of a stream with constant proportions; it ends where the next one starts.

    Attributes:
        start: its first position.
        drawn_M: samples of each source that were drawn before it.
        proportions_M: whole numbers, see `lit_recycle.data.weights`.
    """

    start: int
    drawn_M: tuple[int, ...]
    proportions_M: tuple[int, ...]

    def drawn_by(self, position: int) -> tuple[int, ...]:
        """Samples of each source before a position of this segment."""
        assert position >= self.start, (position, self.start)
        inside_M = counts(position - self.start, self.proportions_M)
        return tuple(before + count for before, count in zip(self.drawn_M, inside_M, strict=True))


def counts(length: int, proportions_M: Sequence[int]) -> list[int]:
    """How many of the first positions each source has."""
    counted, rest, whole = [], length, sum(proportions_M)
    for proportion in proportions_M:
        left = rest * (whole - proportion) // whole if whole else 0
        counted.append(rest - left)
        rest, whole = left, whole - proportion
    return counted


def assign(position_N: np.ndarray, proportions_M: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The source at each position, and how many samples of that source came before.

    Args:
        position_N: int64, from 0 on.
        proportions_M: whole numbers, of sum below 2³¹.
    """
    source_N = np.full_like(position_N, -1)
    before_N = np.zeros_like(position_N)
    begin_N, end_N, whole = position_N, position_N + 1, sum(proportions_M)
    for number, proportion in enumerate(proportions_M):
        if not proportion:
            continue
        left_begin_N, left_end_N = (_share(edge, whole - proportion, whole) for edge in (begin_N, end_N))
        here_N = begin_N - left_begin_N != end_N - left_end_N  # never again true once it was: both edges are the same
        source_N[here_N] = number
        before_N[here_N] = (end_N - left_end_N - 1)[here_N]
        begin_N, end_N, whole = left_begin_N, left_end_N, whole - proportion
    return source_N, before_N


def _share(count_N: np.ndarray, part: int, whole: int) -> np.ndarray:
    """⌊count · part / whole⌋, without the product that would not fit into 64 bits."""
    return count_N // whole * part + count_N % whole * part // whole


@dataclass(frozen=True)
class Mixture:
    """A stream of segments, in order of their starts; of those with the same start the last one counts."""

    segments: tuple[Segment, ...]

    def at(self, position_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source at each position, and how many samples of that source came before, in all segments."""
        starts = np.array([segment.start for segment in self.segments])
        segment_N = np.searchsorted(starts, position_N, side="right") - 1
        source_N, before_N = np.empty_like(position_N), np.empty_like(position_N)
        for number in np.unique(segment_N):
            segment, here_N = self.segments[number], segment_N == number
            source, before = assign(position_N[here_N] - segment.start, segment.proportions_M)
            source_N[here_N], before_N[here_N] = source, before + np.array(segment.drawn_M)[source]
        return source_N, before_N

    def drawn_by(self, position: int) -> tuple[int, ...]:
        """Samples of each source before a position."""
        return next(s for s in reversed(self.segments) if s.start <= position).drawn_by(position)
