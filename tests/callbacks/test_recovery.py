"""When a loss is back, and when a growth has paid: on curves whose answer is known."""

from __future__ import annotations

import json
import math
import statistics

import numpy as np
import pytest

from lit_recycle.callbacks.recovery import FEWEST, Recovery, fit_trend

SMALL, LARGE = 100, 250
"""FLOPs per step before and after."""
AT = 400
"""Steps before the growth."""


def small_loss(flops: float) -> float:
    return 1.0 + 30 * flops**-0.35


def grown_loss(flops: float, jump: float, lasting: float, better: float) -> float:
    """The jump dies away; the larger model falls faster than the small one by ``better`` per e-fold of compute."""
    start = SMALL * AT
    gain = better * math.log(flops / start)
    return small_loss(flops) - gain + jump * math.exp(-(flops - start) / (lasting * LARGE))


def first(condition, begin: int = 1) -> int:
    return next(n for n in range(begin, 5000) if condition(SMALL * AT + n * LARGE))


def follow(recovery: Recovery, losses, noise: float, seed: int, jump: float, *, save: bool = False):
    """Steps at which recovery and pay-back were reported, and what was reported."""
    draw, points = np.random.default_rng(seed), {}
    for step in range(1, AT + 1):
        recovery.add(
            {"steps": step, "tokens": 10 * step, "flops": SMALL * step},
            small_loss(SMALL * step) + noise * draw.normal(),
        )
    now = {"steps": AT, "tokens": 10 * AT, "flops": SMALL * AT}
    points |= recovery.begin(now, jump)
    for n in range(1, 2001):
        flops = SMALL * AT + n * LARGE
        if save and n == 3:
            state = json.loads(json.dumps(recovery.state_dict()))
            recovery = Recovery(recovery.smoothing, recovery.history)
            recovery.load_state_dict(state)
        now = {"steps": AT + n, "tokens": 10 * (AT + n), "flops": flops}
        points |= recovery.add(now, losses(flops) + noise * draw.normal())
    return points


@pytest.mark.parametrize("save", [False, True], ids=["in one go", "through a checkpoint"])
def test_without_noise_both_are_met_where_they_are(save: bool) -> None:
    def losses(flops: float) -> float:
        return grown_loss(flops, 0.5, 40, 0.05)

    points = follow(Recovery(1, 50), losses, 0.0, 0, 0.5, save=save)
    back = first(lambda flops: losses(flops) <= small_loss(SMALL * AT))
    assert points["recovery_steps"] == pytest.approx(back, abs=2)
    assert points["recovery_flops"] == points["recovery_steps"] * LARGE
    assert points["recovery_tokens"] == points["recovery_steps"] * 10
    paid = first(lambda flops: losses(flops) < small_loss(flops))
    assert paid <= points["paid_back_steps"] <= 1.6 * paid  # never too early: the line runs below the small one's curve


def test_with_noise_recovery_is_found_on_the_average() -> None:
    def losses(flops: float) -> float:
        return grown_loss(flops, 0.5, 40, 0.05)

    back = first(lambda flops: losses(flops) <= small_loss(SMALL * AT))
    found = [follow(Recovery(10, 50), losses, 0.05, seed, 0.5)["recovery_steps"] for seed in range(20)]
    assert statistics.median(found) == pytest.approx(back, rel=0.25)


def test_a_growth_without_a_jump_is_back_at_once() -> None:
    points = follow(Recovery(10, 50), small_loss, 0.05, 0, 0.001)
    assert points["recovery_steps"] == points["recovery_flops"] == 0
    unknown = follow(Recovery(10, 50), small_loss, 0.05, 0, None)
    assert unknown["recovery_steps"] >= 10  # no batch was measured before and after: it takes a mean to see it


def test_what_never_pays_is_never_said_to() -> None:
    """As good as the small model for the same compute: three standard errors are crossed seldom, in 2,000 steps."""
    said = ["paid_back_steps" in follow(Recovery(10, 50), small_loss, 0.03, s, 0.1) for s in range(20)]
    assert sum(said) <= 2


def test_the_error_of_the_line_is_that_of_many_fits() -> None:
    draw, flops = np.random.default_rng(0), np.linspace(20_000, 40_000, 50)
    fits = [fit_trend([(f, small_loss(f) + 0.03 * draw.normal()) for f in flops]) for _ in range(2000)]
    for where in (40_000, 100_000):
        values = [trend.at(where) - 0.03 * draw.normal(size=10).mean() for trend in fits if trend]
        errors = [trend.error(where, 10) for trend in fits if trend]
        assert statistics.stdev(values) == pytest.approx(statistics.mean(errors), rel=0.05)


def test_of_too_few_steps_nothing_is_said() -> None:
    assert fit_trend([(float(i), 1.0) for i in range(1, FEWEST)]) is None
    recovery = Recovery(2, 50)
    recovery.add({"steps": 1, "tokens": 1, "flops": 1}, 3.0)
    assert recovery.begin({"steps": 1, "tokens": 1, "flops": 1}, 0.0) == {}
    assert recovery.add({"steps": 2, "tokens": 2, "flops": 2}, 2.0) == {} and recovery.vs_before is None


def test_the_trend_is_a_regression_in_the_logarithm_of_compute() -> None:
    draw = np.random.default_rng(0)
    flops = np.linspace(100, 900, 40)
    losses = 3 - 0.2 * np.log(flops) + 0.01 * draw.normal(size=40)
    slope, level = np.polyfit(np.log(flops / flops[-1]), losses, 1)
    trend = fit_trend(list(zip(flops.tolist(), losses.tolist(), strict=True)))
    assert trend is not None
    assert (trend.slope, trend.at(900)) == (pytest.approx(slope), pytest.approx(level))
    residuals = losses - level - slope * np.log(flops / flops[-1])
    assert trend.noise == pytest.approx(math.sqrt((residuals**2).sum() / 38))
