"""The loss law: found again where it is planted, and held against the results that the repository has."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lit_recycle.advice.law import (
    Finished,
    Forecast,
    Part,
    Parts,
    alike,
    average_size,
    final_size,
    fit,
    tokens_of,
    without,
)
from lit_recycle.advice.ranking import cases
from lit_recycle.advice.runs import read_runs
from lit_recycle.experiments.definition import load_experiments
from lit_recycle.experiments.law import members
from lit_recycle.experiments.results import Results

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "results"


def planted(parts: Parts, share: float = 0.25) -> float:
    sizes = [part.tokens * part.active_params ** (1 - share) * part.params**share for part in parts]
    return 1.1 + 60 / (sum(sizes) / tokens_of(parts)) ** 0.4 + 900 / tokens_of(parts) ** 0.5


def some_parts(draw: np.random.Generator) -> Parts:
    sizes = np.sort(draw.choice([60_000, 90_000, 150_000, 300_000], draw.integers(1, 4), replace=False))
    return tuple(Part(float(draw.uniform(0.5e6, 4e6)), int(n), int(n * draw.integers(2, 5))) for n in sizes)


def some_runs(noise: float = 0.0) -> list[Finished]:
    draw = np.random.default_rng(1)
    kinds = [some_parts(draw) for _ in range(24)]
    return [
        Finished("all", str(i), parts, planted(parts) + noise * draw.normal())
        for i, parts in enumerate(kinds)
        for _ in range(2)
    ]


def test_a_planted_law_is_found_again() -> None:
    law, draw = fit(some_runs()), np.random.default_rng(2)
    for parts in (some_parts(draw) for _ in range(50)):
        assert law(parts) == pytest.approx(planted(parts), abs=2e-3)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    forecast, draw = Forecast(tuple(some_runs(noise=0.01))), np.random.default_rng(3)
    unseen = [some_parts(draw) for _ in range(200)]
    held = [abs(loss - planted(p)) < interval for p in unseen for loss, interval in [forecast.predict(p)]]
    assert sum(held) / len(held) > 0.9
    assert all(interval < 0.1 for loss, interval in map(forecast.predict, unseen))


def test_runs_that_changed_their_size_need_the_average() -> None:
    runs = tuple(some_runs())
    assert Forecast(runs, average_size).error < 0.2 * Forecast(runs, final_size).error


def test_what_is_predicted_was_not_fitted_on() -> None:
    """A run whose loss follows no law is missed by as much, not by what is left after fitting it."""
    runs = some_runs()
    odd = Finished("all", "odd", (Part(2e6, 100_000, 300_000),), planted((Part(2e6, 100_000, 300_000),)) + 0.5)
    assert Forecast((*runs, odd)).misses["all", "odd"] == pytest.approx(0.5, abs=0.01)


def test_beyond_the_runs_nothing_is_claimed() -> None:
    forecast = Forecast(tuple(some_runs()))
    assert forecast.covers((Part(3e6, 100_000, 300_000),))
    assert not forecast.covers((Part(3e8, 100_000, 300_000),))
    assert not forecast.covers((Part(3e6, 10_000_000, 30_000_000),))
    small, large = (Part(1e6, 50_000, 50_000),), (Part(1e8, 5_000_000, 5_000_000),)
    corners = Forecast((*some_runs(), *(Finished("all", str(i), p, 1.0) for i, p in enumerate((small, large)))))
    assert corners.covers(large)
    assert not corners.covers((large[0]._replace(tokens=1e6),)), "no run has both, though one has either"


def test_too_few_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 different sizes and lengths, and there are 5"):
        fit(some_runs()[:10])


# --- the repository's own results ------------------------------------------------------------------------------------


def test_parts_are_what_the_run_was() -> None:
    """Tokens to the last one, and parameters at the end, are in the result, measured."""
    for path in RESULTS.glob("*/*.json"):
        result = json.loads(path.read_text())
        (run,) = read_one(path)
        assert tokens_of(run.parts) == result["tokens"]
        assert (run.parts[-1].active_params, run.parts[-1].params) == (result["active_params"], result["params"])
        assert len(run.parts) == 1 + len(result["growths"]), path


def read_one(path: Path) -> tuple[Finished, ...]:
    from lit_recycle.advice import runs

    return tuple(runs._best_tuned([path]))


def test_of_several_rates_the_best_is_taken() -> None:
    experiment = next(e for e in load_experiments(ROOT / "configs/experiments") if e.name == "headline")
    results, runs = Results(RESULTS), read_runs([RESULTS])
    for point, _ in experiment.variants:
        expected = sorted(result["metrics"]["loss"] for result in results.at(experiment, point))
        assert sorted(run.loss for run in runs if run.kind == ("headline", point["arm"])) == expected


def test_the_three_choices_are_ranked_as_they_were_measured() -> None:
    experiments = load_experiments(ROOT / "configs/experiments")
    found = list(cases(read_runs([RESULTS]), members(experiments, Results(RESULTS))))
    assert len(found) >= 40, "runs that experiments share are in each of them"
    assert sum(case.is_right for case in found) / len(found) >= 0.8
    assert sum(case.is_right for case in found) > sum(case.more_tokens for case in found), "a law is worth its fit"


def test_runs_that_are_left_out_together() -> None:
    small, large = Part(1e6, 60_000, 90_000), Part(2e6, 120_000, 180_000)
    assert alike((small, large), (small, large._replace(tokens=2.1e6)))
    assert not alike((small, large), (small, large._replace(tokens=2.3e6)))
    assert not alike((small, large), (small, large._replace(params=180_001)))
    assert not alike((small, large), (small,))
    runs = [Finished("all", str(t), (small._replace(tokens=t),), 1.0) for t in (0.8e6, 0.95e6, 1e6, 1.2e6)]
    assert [run.variant for run in without(runs, (small,))] == ["800000.0", "1200000.0"]


def test_a_pair_is_judged_against_what_needs_no_law() -> None:
    """More tokens are said to be better; and pairs of equal cost are known."""
    many = some_runs()
    few, more = Part(2e6, 100_000, 200_000), Part(4e6, 50_000, 100_000)
    pair = [
        Finished("two", v, (part,), loss + seed / 1e4)
        for v, part, loss in (("a", few, 1.5), ("b", more, 1.4))
        for seed in (1, 2)
    ]
    (case,) = cases(many, pair)
    assert case.more_tokens and case.is_equal and case.measured == pytest.approx(0.1)
    worse = [replace(run, loss=3 - run.loss) for run in pair]
    (case,) = cases(many, worse)
    assert not case.more_tokens
    assert len(list(cases(many, [*pair, *(replace(run, group="again") for run in pair)]))) == 1, "it is one pair"
    large = (Part(1e6, 200_000, 400_000), few._replace(tokens=1e6))
    pruned = [replace(run, parts=large) if run.variant == "a" else run for run in pair]
    assert not list(cases(many, pruned)), "pruned is none of the three ways"
    dear = [replace(run, parts=(few._replace(tokens=9e6),)) if run.variant == "a" else run for run in pair]
    (case,) = cases(many, dear)
    assert not case.is_equal and not case.more_tokens


def test_losses_are_predicted_within_the_interval() -> None:
    forecast = Forecast(read_runs([RESULTS]))
    assert forecast.error < 0.05 and math.isfinite(forecast.error)
