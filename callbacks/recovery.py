"""Recovery of the training loss after a growth, against the small model's loss as it would have gone on.

Before a growth the loss falls about along a line in the logarithm of the compute; its residuals are a step's noise.
After it the mean of the last steps is held against two values: that line where the growth was, and the same line
carried on to the compute that has been spent since. A loss law is convex in the logarithm, so that its tangent runs
below it: the small model is thought a little better than it would have been, and a growth is not said to have paid too
early.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

UNITS = ("steps", "tokens", "flops")
FEWEST = 8
"""Points that a line and its noise are read off from."""
SURE = 3.0
"""Standard errors by which the loss must be better to have paid back; not two, for batches are not independent."""


@dataclass(frozen=True)
class Trend:
    """A line: loss = mean + slope · (ln FLOPs − centre), with what tells how far it is to be trusted.

    Args:
        mean: Loss at the centre.
        slope: Nats per token for e times the compute.
        centre: Mean logarithm of the points' FLOPs.
        end: FLOPs at the last point.
        noise: Standard deviation of a point from the line.
        points: Number of them.
        spread: Sum of squares of their distances from the centre.
    """

    mean: float
    slope: float
    centre: float
    end: float
    noise: float
    points: int
    spread: float

    def at(self, flops: float) -> float:
        return self.mean + self.slope * (math.log(flops) - self.centre)

    def error(self, flops: float, steps: int) -> float:
        """Standard error of the line at some FLOPs minus a mean of so many steps."""
        distance = math.log(flops) - self.centre
        return self.noise * math.sqrt(1 / steps + 1 / self.points + distance**2 / self.spread)


def fit_trend(points: list[tuple[float, float]]) -> Trend | None:
    """Least squares over pairs of FLOPs and loss; None of too few."""
    if (n := len(points)) < FEWEST:
        return None
    x, y = [math.log(flops) for flops, _ in points], [loss for _, loss in points]
    centre, mean = sum(x) / n, sum(y) / n
    spread = sum((a - centre) ** 2 for a in x)
    slope = sum((a - centre) * (b - mean) for a, b in zip(x, y, strict=True)) / spread
    squares = sum((b - mean - slope * (a - centre)) ** 2 for a, b in zip(x, y, strict=True))
    return Trend(mean, slope, centre, points[-1][0], math.sqrt(squares / (n - 2)), n, spread)


@dataclass
class Recovery:
    """Follows the loss across growths; every step's loss is added once.

    Args:
        smoothing: Steps over which the loss is averaged.
        history: Steps before a growth from which its trend is read, or half of those since the last one, if fewer.
    """

    smoothing: int
    history: int
    trend: Trend | None = None
    open: dict[str, dict[str, int]] = field(default_factory=dict)
    """Progress at the growth, for what has not been reached since: ``recovery`` and ``paid_back``."""
    _points: list[tuple[float, float]] = field(default_factory=list)
    """FLOPs and losses of this stage, the last ones."""
    _seen: int = 0
    """Steps of this stage."""

    @property
    def loss(self) -> float:
        """Mean of the last steps of this stage; NaN before the first."""
        last = self._points[-self.smoothing :]
        return sum(loss for _, loss in last) / len(last) if last else math.nan

    @property
    def vs_before(self) -> float | None:
        """The loss minus what it was right before the growth; None without a growth whose trend is known."""
        return self.loss - self.trend.at(self.trend.end) if self.trend and self._points else None

    @property
    def vs_small(self) -> float | None:
        """The loss minus what the small model would have had by now, for the same compute."""
        return self.loss - self.trend.at(self._points[-1][0]) if self.trend and self._points else None

    def add(self, now: Mapping[str, int], loss: float) -> dict[str, float]:
        """One step's loss; returns what has been reached by it, as points to log.

        Args:
            now: ``steps``, ``tokens`` and ``flops`` after the step.
            loss: In nats per token.
        """
        self._seen += 1
        self._points = [*self._points[1 - max(self.history, self.smoothing) :], (float(now["flops"]), loss)]
        if self.trend is None or len(self._points) < self.smoothing:
            return {}
        assert self.vs_before is not None and self.vs_small is not None
        reached: dict[str, float] = {}
        if "recovery" in self.open and self.vs_before <= 0:
            reached |= self._spent("recovery", now)
        if "paid_back" in self.open and self.vs_small < -SURE * self.trend.error(now["flops"], self.smoothing):
            reached |= self._spent("paid_back", now)
        return reached

    def _spent(self, what: str, now: Mapping[str, int]) -> dict[str, float]:
        start = self.open.pop(what)
        return {f"{what}_{unit}": float(now[unit] - start[unit]) for unit in UNITS}

    def begin(self, start: Mapping[str, int], jump: float | None) -> dict[str, float]:
        """A growth has happened; returns what is reached at once.

        Args:
            start: Progress.
            jump: Loss of one and the same batch after it minus before it, if that was measured.
        """
        last = min(self.history, self._seen // 2)
        self.trend = fit_trend(self._points[-last:] if last else [])
        self._points, self._seen = [], 0
        place = {unit: start[unit] for unit in UNITS}
        self.open = {"recovery": place, "paid_back": dict(place)} if self.trend else {}
        if self.trend and jump is not None and jump <= self.trend.error(self.trend.end, self.smoothing):
            return self._spent("recovery", start)
        return {}

    def state_dict(self) -> dict[str, Any]:
        trend = asdict(self.trend) if self.trend else None
        return {
            "trend": trend,
            "open": dict(self.open),
            "points": [list(point) for point in self._points],
            "seen": self._seen,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.trend = Trend(**state["trend"]) if state["trend"] else None
        self.open = dict(state["open"])
        self._points, self._seen = [(flops, loss) for flops, loss in state["points"]], state["seen"]
