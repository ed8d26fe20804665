"""Compute saved: FLOPs and time until one run is where another one ends."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_recycle.experiments.budgets import Settings, lay_out
from lit_recycle.experiments.page import amounts
from lit_recycle.experiments.saved import Clock, compute_saved, reaching

ROOT = Path(__file__).parents[2]


CURVE = [[1, 10, 100, 1.0, 3.0], [2, 20, 200, 2.0, 2.0], [3, 30, 300, 4.0, 2.5], [4, 40, 400, 5.0, 1.5]]
"""Steps, tokens, FLOPs, CPU seconds, loss; the loss jumps up at a growth."""


def test_a_loss_is_reached_where_it_is_not_left_again() -> None:
    assert reaching(CURVE, 2.25) == (CURVE[2], CURVE[3], 0.25)
    assert reaching(CURVE, 1.5) == (CURVE[2], CURVE[3], 1.0)
    assert reaching(CURVE, 1.4) is None
    assert reaching(CURVE, 4.0) == (CURVE[0], CURVE[0], 0.0)


def made_of(settings: Settings, seed: int, losses: list[float], every: int = 3) -> dict[str, Any]:
    """A result with a point of its curve every few steps, ten FLOPs a step, whose clock says nothing."""
    base = yaml.safe_load((ROOT / "configs/experiments/base.yaml").read_text())
    fit, *_ = lay_out(base, settings, seed, unit=1_085_865_984)  # FLOPs of one step of the small model
    curve = [[every * i, 0, 10 * every * i, math.nan, loss] for i, loss in enumerate(losses, 1)]
    return {"seed": seed, "fit": fit, "curve": curve}


LARGE = {"model": {"config": {"num_layers": 4}}}


def timed(seed: int, seconds: float, fit: dict[str, Any]) -> dict[str, Any]:
    """A run that warms up for nine seconds until its first point, and then takes so long for each step."""
    result = made_of(Settings(extra=40, fit=fit), seed, [3.0, 2.0, 1.0])
    for i, row in enumerate(result["curve"]):
        row[3] = 9.0 + 3 * i * seconds
    return result


def test_compute_saved_is_a_ratio_per_seed() -> None:
    """4 steps of a second and 6.5 of three reach what 9 steps of three do, in seed 1."""
    runs = [
        made_of(Settings(sunk=4, extra=16, growths=[{"depth": {"factor": 2}}]), seed, [3.0, 2.5, 2.2, 1.8])
        for seed in (1, 2, 3)
    ]
    rivals = [made_of(Settings(extra=20, fit=LARGE), seed, [3.5, 3.0, end]) for seed, end in ((1, 2.0), (2, 1.0))]
    clock = Clock([timed(1, 1.0, {}), timed(1, 3.0, LARGE), timed(2, 1.0, {}), timed(2, 6.0, LARGE)])
    saved = compute_saved(runs, rivals, clock)
    assert saved and saved.seeds == 2
    (ratio,) = saved.reached
    assert ratio.flops == pytest.approx(10.5 / 9) and ratio.between == (1.0, 12 / 9)
    assert ratio.seconds == pytest.approx((4 * 1 + 6.5 * 3) / (9 * 3))
    assert clock(runs[1], 10) == pytest.approx(4 * 1 + 6 * 6)
    assert math.isnan(clock(runs[2], 10)), "no time is told where none was taken"
    assert amounts([ratio]) == "after 1.17 of its FLOPs (the curves have points at 1.00 and 1.33) and 0.87 of its time"
    assert amounts([ratio._replace(seconds=math.nan)]).endswith("1.33)")
    by_seed = [ratio._replace(flops=0.9, seconds=0.98), ratio._replace(flops=0.88, seconds=0.9)]
    assert amounts(by_seed).startswith("after 0.890 ± 0.010 of its FLOPs")
    assert amounts(by_seed).endswith("0.940 ± 0.040 of its time, the latter inside the noise")
    assert compute_saved(runs[2:], rivals, clock) is None
