"""Results of runs: one small JSON file each, found by the run's configuration."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lit_recycle.experiments.corpus import CorpusReport
from lit_recycle.experiments.definition import Experiment, Run

Result = dict[str, Any]
HIGHER_IS_BETTER = ("accuracy",)


class Results:
    """All results of a folder, by the key of their run's configuration.

    Args:
        folder: Holds ``EXPERIMENT/RUN.json``; read once.

    Raises:
        ValueError: For a file that is none; names it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = [(path, _read(path)) for path in sorted(folder.glob("*/*.json"))]
        self.by_key: dict[str, Result] = {result["key"]: result for _, result in files}
        self.files: dict[Path, str] = {path: result["key"] for path, result in files}

    def get(self, run: Run) -> Result | None:
        return self.by_key.get(run.key)

    def add(self, run: Run, measured: Result) -> Path:
        """Write the result of a run, whole or not at all."""
        head: Result = {"experiment": run.experiment, "point": dict(run.point), "seed": run.seed}
        if run.tuned:
            head["tuned"] = {run.tuned[0]: run.tuned[1]}
        result = head | {"key": run.key, "sunk_flops": run.sunk_flops} | measured | {"fit": run.fit}
        path = self.folder / run.experiment / f"{run.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}")
        part.write_text(_readable(result), encoding="utf-8")
        part.replace(path)
        self.by_key[run.key], self.files[path] = result, run.key
        return path

    def add_text(self, about: CorpusReport) -> None:
        """Keep what is known of the text that runs are trained on, by its digest.

        Raises:
            ValueError: The results that are there are of another text, and losses could not be compared.
        """
        file = self.folder / "corpus.json"
        known = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        if known and about.digest not in known:
            (theirs, *_) = known.values()
            raise ValueError(
                f"{self.folder} holds results on the standard library of Python {theirs['python']}, and this one has "
                "another: use that Python, or give another folder with --results"
            )
        known[about.digest] = asdict(about) | {"python": platform.python_version()}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")

    # --- what a table or figure asks for -----------------------------------------------------------------------------

    def tried(self, experiment: Experiment, point: Mapping[str, str]) -> dict[float, float]:
        """The tuned setting's values at a point that have results on all of the sweep's seeds, and their mean loss."""
        best_of = experiment.best_of
        assert best_of is not None
        means = {}
        for value in best_of.values:
            found = [self.get(experiment.run(point, seed, value)) for seed in best_of.seeds]
            if None not in found:
                means[value] = sum(r["metrics"]["loss"] for r in found if r) / len(found)
        return means

    def best_value(self, experiment: Experiment, point: Mapping[str, str]) -> float | None:
        """The best of the values that have been tried; None before any has."""
        means = self.tried(experiment, point)
        return min(means, key=lambda value: means[value], default=None)

    def runs(self, experiment: Experiment) -> list[Run]:
        """All runs of an experiment that are known so far; those of later seeds once all values have been tried."""
        known = list(experiment.sweep())
        for seed in experiment.seeds_after_sweep():
            for point, _ in experiment.variants:
                value = self.best_value(experiment, point)
                assert experiment.best_of is not None
                whole = len(self.tried(experiment, point)) == len(experiment.best_of.values)
                if value is not None and (whole or self.get(experiment.run(point, seed, value))):
                    known.append(experiment.run(point, seed, value))
        return known

    def at(self, experiment: Experiment, point: Mapping[str, str]) -> list[Result]:
        """Results at a point, one per seed that is there, at the best value of the tuned setting."""
        value = None
        if experiment.best_of and (value := self.best_value(experiment, point)) is None:
            return []
        found = (self.get(experiment.run(point, seed, value)) for seed in experiment.seeds)
        return [result for result in found if result]


def _read(path: Path) -> Result:
    try:
        result: Result = json.loads(path.read_text(encoding="utf-8"))
        if not {"key", "metrics"} <= {*result}:
            raise ValueError("it lacks key or metrics")
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is no result of a run ({error}): remove it, and the run is made again") from error
    return result


class Spread(NamedTuple):
    """Mean, its standard error (nan for a single value), and number of values."""

    mean: float
    error: float
    n: int

    def text(self, digits: int, sign: str = "") -> str:
        """``mean ± error``, the mean alone of a single value."""
        return f"{self.mean:{sign}.{digits}f}" + (f" ± {self.error:.{digits}f}" if self.n > 1 else "")

    def times(self, factor: float) -> Spread:
        """In another unit."""
        return Spread(self.mean * factor, self.error * factor, self.n)


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard error of the mean, s/√n."""
    n = len(values)
    mean = sum(values) / n
    error = math.sqrt(sum((v - mean) ** 2 for v in values) / (n - 1) / n) if n > 1 else math.nan
    return Spread(mean, error, n)


STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""Quantiles of Student's t for 95 %, two-sided, with 1, 2, … degrees of freedom: three seeds tell little."""


def student(freedom: int) -> float:
    return STUDENT[min(freedom, len(STUDENT)) - 1]


def interval(found: Spread) -> float:
    """Half the width of the 95 % confidence interval of a mean."""
    return student(found.n - 1) * found.error


class Noise(NamedTuple):
    """Variance of a difference of two runs of a seed, over all pairs of an experiment, and its degrees of freedom."""

    variance: float
    freedom: int


@dataclass(frozen=True)
class Difference:
    """One point minus another, paired by seed, because a seed has the same data and initial weights at both."""

    spread: Spread
    better_if_negative: bool

    def is_clear(self, noise: Noise | None = None) -> bool:
        """Whether zero lies outside the 95 % interval; given the noise of the experiment, outside the one of that, too.

        Three seeds that are alike by chance make an error of their own that says nothing.
        """
        widest = interval(self.spread)
        if noise is not None:
            widest = max(widest, student(noise.freedom) * math.sqrt(noise.variance / self.spread.n))
        return abs(self.spread.mean) > widest

    @property
    def is_better(self) -> bool:
        """Whether the first point is the better one, as far as its mean tells."""
        return (self.spread.mean < 0) == self.better_if_negative


def difference(first: Sequence[Result], second: Sequence[Result], metric: str) -> Difference | None:
    """Of the seeds that both have; None without any."""
    other = {result["seed"]: result["metrics"][metric] for result in second}
    values = [r["metrics"][metric] - other[r["seed"]] for r in first if r["seed"] in other]
    return Difference(spread(values), metric not in HIGHER_IS_BETTER) if values else None


def noise_of(pairs: Sequence[tuple[str, str, Difference]]) -> Noise | None:
    """Of differences together, each between two points that are named.

    Degrees of freedom are those of the differences that do not follow from the others: two among three points.

    Returns:
        None where no difference is of two seeds.
    """
    groups: dict[str, set[str]] = {}
    squares, weights, freedom = 0.0, 0, 0
    for first, second, found in pairs:
        own = found.spread.n - 1
        if own < 1:
            continue
        squares, weights = squares + own * found.spread.n * found.spread.error**2, weights + own
        ours, theirs = (groups.setdefault(point, {point}) for point in (first, second))
        if ours is not theirs:
            freedom += own
            ours |= theirs
            groups |= dict.fromkeys(theirs, ours)
    return Noise(squares / weights, freedom) if weights else None


def _readable(result: Result) -> str:
    """JSON with a line per key; curves and configurations stay on one."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"
