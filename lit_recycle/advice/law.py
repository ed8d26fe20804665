"""Loss law in the parameters averaged over training, fitted on finished runs: a prediction with an interval.

    L = E + A / N̄^α + B / D^β

with D the tokens of the whole run, and N̄ the mean over them of the size that the model had (*The Journey Matters*,
arXiv 2501.12486), so that one law holds for runs that grew, shrank, or did neither. A size is N_a^(1−s) · N^s: between
the active parameters and all of them, for experts that a token does not visit count, but less (s is fitted, too).

Axis suffixes: G points of the grid of exponents, R runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

EXPONENTS = np.geomspace(0.05, 2.0, 28)
"""Of the grid, for α and for β. Chinchilla's are 0.34 and 0.28 (arXiv 2203.15556)."""
SHARES = (0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)
"""Of the grid, for s."""
FEWEST = 8
"""Different sizes and tokens that a fit needs: it has six numbers."""
COVERED = 2.0
"""By what factor a prediction may leave the sizes and tokens of its runs."""
ALIKE = 1.1
"""By what factor the tokens of runs differ that are left out together."""
QUANTILE = 1.96
"""Of the normal distribution, for 95 %."""


class Part(NamedTuple):
    """A stretch of training with one shape."""

    tokens: float
    active_params: int
    params: int


Parts = tuple[Part, ...]


@dataclass(frozen=True)
class Finished:
    """A run that has come to its end.

    Args:
        group: What it shares with all that it is compared with.
        variant: What it shares with those of the group that differ by their seed alone.
        parts: Its stages, one after the other.
        loss: On held-out text, at the end, in nats per token.
    """

    group: str
    variant: str
    parts: Parts
    loss: float

    @property
    def kind(self) -> tuple[str, str]:
        """The same for runs that differ by their seed alone."""
        return self.group, self.variant


class Predicted(NamedTuple):
    """A loss, and half the width of its 95 % interval."""

    loss: float
    interval: float


def tokens_of(parts: Parts) -> float:
    return sum(part.tokens for part in parts)


def average_size(parts: Parts, share: float) -> float:
    """N̄ for one s."""
    sizes = (part.tokens * part.active_params ** (1 - share) * part.params**share for part in parts)
    return sum(sizes) / tokens_of(parts)


def final_size(parts: Parts, share: float) -> float:
    """What Chinchilla's law would take: the size at the end, whatever it was before."""
    return average_size(parts[-1:], share)


@dataclass(frozen=True)
class Law:
    """A fit; losses are predicted by :meth:`__call__`."""

    floor: float
    a: float
    b: float
    alpha: float
    beta: float
    share: float
    size: Callable[[Parts, float], float] = average_size

    def __str__(self) -> str:
        terms = f"{self.floor:.3f} + {self.a:.3g}/N̄^{self.alpha:.2f} + {self.b:.3g}/D^{self.beta:.2f}"
        return f"L = {terms}, sizes N_a^{1 - self.share:g}·N^{self.share:g}"

    def __call__(self, parts: Parts) -> float:
        """Nats per token at the end of a run of these parts."""
        return self.floor + self.a / self.size(parts, self.share) ** self.alpha + self.b / tokens_of(parts) ** self.beta


def fit(runs: Sequence[Finished], size: Callable[[Parts, float], float] = average_size) -> Law:
    """Least squares: exponents on a grid, the rest by linear algebra, none of it negative.

    Raises:
        ValueError: There are too few variants, or no law of this form describes them.
    """
    by_parts: dict[Parts, list[float]] = {}  # those of several seeds are one point, with their number as its weight
    for run in runs:
        by_parts.setdefault(run.parts, []).append(run.loss)
    if len(by_parts) < FEWEST:
        raise ValueError(
            f"a loss law needs runs of at least {FEWEST} different sizes and lengths, and there are {len(by_parts)}"
        )
    losses_R = np.array([sum(losses) / len(losses) for losses in by_parts.values()])
    roots_R = np.array([math.sqrt(len(losses)) for losses in by_parts.values()])
    tokens_R = np.array([tokens_of(parts) for parts in by_parts])
    best: tuple[float, Law] | None = None
    for share in SHARES:
        sizes_R = np.array([size(parts, share) for parts in by_parts])
        scaled_R = sizes_R / sizes_R.mean(), tokens_R / tokens_R.mean()
        error, alpha, beta, (floor, a, b) = _on_grid(*scaled_R, losses_R, roots_R)
        if best is None or error < best[0]:
            scaled = float(a * sizes_R.mean() ** alpha), float(b * tokens_R.mean() ** beta)
            best = error, Law(float(floor), *scaled, alpha, beta, share, size)
    assert best is not None
    if not math.isfinite(best[0]):
        raise ValueError("these runs follow no loss law: it would have to fall with size and with tokens")
    return best[1]


def _on_grid(
    sizes_R: np.ndarray, tokens_R: np.ndarray, losses_R: np.ndarray, roots_R: np.ndarray
) -> tuple[float, float, float, np.ndarray]:
    """Squared error, exponents and coefficients at the best point; an infinite error where none is allowed.

    Weights of the points are given as their square roots.
    """
    alphas_G, betas_G = (grid.ravel() for grid in np.meshgrid(EXPONENTS, EXPONENTS))
    ones = np.ones((len(alphas_G), len(losses_R)))
    x_GR3 = np.stack([ones, sizes_R ** -alphas_G[:, None], tokens_R ** -betas_G[:, None]], -1) * roots_R[:, None]
    losses_R = losses_R * roots_R
    normal_G33 = x_GR3.mT @ x_GR3 + 1e-12 * np.eye(3)
    found_G3 = np.linalg.solve(normal_G33, x_GR3.mT @ losses_R[:, None])[..., 0]
    errors_G = (((x_GR3 @ found_G3[..., None])[..., 0] - losses_R) ** 2).sum(-1)
    errors_G[(found_G3 < 0).any(-1)] = math.inf
    best = int(errors_G.argmin())
    return float(errors_G[best]), float(alphas_G[best]), float(betas_G[best]), found_G3[best]


def alike(one: Parts, other: Parts) -> bool:
    """Whether two runs had the same sizes, each for about as many tokens: a law that saw one knows the other."""
    sizes = [[part[1:] for part in parts] for parts in (one, other)]
    return sizes[0] == sizes[1] and all(
        1 / ALIKE <= ours.tokens / theirs.tokens <= ALIKE for ours, theirs in zip(one, other, strict=True)
    )


def without(runs: Sequence[Finished], *parts: Parts) -> list[Finished]:
    """The runs that are unlike these in sizes or tokens."""
    return [run for run in runs if not any(alike(run.parts, left_out) for left_out in parts)]


@dataclass(frozen=True)
class Forecast:
    """Predictions with intervals, from runs: how the fit varies and misses when runs like one are left out.

    Args:
        runs: What is fitted.
        size: What a size is in the law.
        reach: By what factor a prediction may leave the sizes and tokens of the runs.
    """

    runs: tuple[Finished, ...]
    size: Callable[[Parts, float], float] = average_size
    reach: float = COVERED

    @cached_property
    def law(self) -> Law:
        return fit(self.runs, self.size)

    @cached_property
    def left_out(self) -> dict[Parts, Law]:
        """By sizes and tokens, the law of all runs that are unlike it."""
        return {parts: fit(without(self.runs, parts), self.size) for parts in {run.parts: None for run in self.runs}}

    @cached_property
    def means(self) -> dict[tuple[str, str], float]:
        """By kind of run, its mean loss."""
        return self._by_kind(lambda run: run.loss)

    @cached_property
    def misses(self) -> dict[tuple[str, str], float]:
        """By kind of run, its mean loss minus what a law says that has seen none like it."""
        return self._by_kind(lambda run: run.loss - self.left_out[run.parts](run.parts))

    def _by_kind(self, value: Callable[[Finished], float]) -> dict[tuple[str, str], float]:
        """Means over seeds."""
        values: dict[tuple[str, str], list[float]] = {}
        for run in self.runs:
            values.setdefault(run.kind, []).append(value(run))
        return {kind: sum(found) / len(found) for kind, found in values.items()}

    @property
    def error(self) -> float:
        """Root mean square of the misses."""
        return math.sqrt(sum(miss**2 for miss in self.misses.values()) / len(self.misses))

    def covers(self, parts: Parts) -> bool:
        """Whether such a run is within reach of one that was fitted, in size and in tokens."""
        share = self.law.share

        def is_near(one: float, other: float) -> bool:
            return 1 / self.reach <= one / other <= self.reach

        return any(
            is_near(tokens_of(parts), tokens_of(run.parts))
            and is_near(average_size(parts, share), average_size(run.parts, share))
            for run in self.runs
        )

    def predict(self, parts: Parts) -> Predicted:
        """The loss at the end of a run of these parts."""
        found = [law(parts) for law in self.left_out.values()]
        mean = sum(found) / len(found)
        jackknife = (len(found) - 1) / len(found) * sum((value - mean) ** 2 for value in found)
        return Predicted(self.law(parts), QUANTILE * math.sqrt(jackknife + self.error**2))
