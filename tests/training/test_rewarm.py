"""A second warm-up: the rate that is logged is the rate that is applied, and the schedule goes on as without it."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import rich
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from runs import assert_same_training_state, fit, half_precision_scaler
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    ExponentialLR,
    LambdaLR,
    LinearLR,
    PolynomialLR,
    SequentialLR,
    StepLR,
)

from lit_recycle.callbacks import RunProgressBar
from lit_recycle.checkpoints.native import load_checkpoint
from lit_recycle.growth.event import Depth, GrowthEvent, Rewarm, Trigger, Width
from lit_recycle.training.rewarm import SCHEDULED, unwarm_after_steps, warm
from lit_recycle.training.schedules import WarmupStableDecay

STEPS = 10
RAMPS = {2: Rewarm(3, 0.25), 4: Rewarm(4, 0.5)}
"""One begins within the other."""
SCHEDULES: dict[str, Any] = {
    "constant": lambda o: LambdaLR(o, lambda step: 1.0),
    "wsd": lambda o: WarmupStableDecay(o, STEPS, warmup_steps=2, decay_steps=4),
    "exponential": lambda o: ExponentialLR(o, 0.9),
    "step": lambda o: StepLR(o, 3, 0.5),
    "cosine": lambda o: CosineAnnealingLR(o, STEPS, 1e-5),
    "restarts": lambda o: CosineAnnealingWarmRestarts(o, 4),
    "polynomial": lambda o: PolynomialLR(o, STEPS),
    "chained": lambda o: ChainedScheduler([ConstantLR(o, 0.1, 3), ExponentialLR(o, 0.9)]),
    "sequential": lambda o: SequentialLR(o, [LinearLR(o, 0.1, total_iters=3), CosineAnnealingLR(o, 7)], [3]),
}
"""Some compute a rate from the first one, some from the one before."""


class Applied(L.Callback):
    """The rates with which the optimizer steps, in the order of the groups' names."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: L.LightningModule, optimizer: Optimizer) -> None:
        groups = sorted(optimizer.param_groups, key=lambda group: group["name"])
        self.rates.append([group["lr"] for group in groups])


def run(root: Path, schedule: str, ramps: dict[int, Rewarm], first: bool = False, **options: Any) -> list[list[float]]:
    """Rates of each step; the monitor stands before the callback that grows, or behind it."""
    events = [
        GrowthEvent(Trigger(steps=2), depth=Depth(2), rewarm=ramps.get(2)),
        GrowthEvent(Trigger(steps=4), width=Width(2, noise=0.0), rewarm=ramps.get(4)),
    ]
    applied, monitor = Applied(), LearningRateMonitor("step")
    optimizer = options.pop("optimizer", lambda params: SGD(params, lr=1e-3))
    module = {
        "lr_scheduler": SCHEDULES[schedule],
        "optimizer": optimizer,
        "param_groups": [{"pattern": "router", "lr": 5e-3, "weight_decay": 0.0}],
    }
    fit(
        root, steps=STEPS, events=events, module=module, logger=CSVLogger(root, "", ""), log_every_n_steps=1,
        **{"before_growth" if first else "callbacks": [applied, monitor], "saves": (5, STEPS), **options},
    )  # fmt: skip
    return applied.rates


def logged(root: Path) -> list[list[float]]:
    with (root / "metrics.csv").open() as file:
        rows = [{k: v for k, v in row.items() if k.startswith("lr-") and v} for row in csv.DictReader(file)]
    return [[float(row[name]) for name in sorted(row)] for row in rows if row]


@pytest.mark.parametrize("first", [False, True], ids=["after growth", "before growth"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_rate_that_is_logged_is_applied_and_the_schedule_goes_on(
    schedule: str, first: bool, tmp_path: Path
) -> None:
    plain = run(tmp_path / "plain", schedule, {})
    rates = run(tmp_path / "run", schedule, RAMPS, first)
    factors = [1.0] * STEPS
    for start, ramp in RAMPS.items():
        for step in range(start, STEPS):
            factors[step] *= ramp.factor(step - start)
    assert min(factors) == 0.25 and factors[-1] == 1.0
    assert len(plain) == len(rates) == STEPS
    for step, (without, rate) in enumerate(zip(plain, rates, strict=True)):
        assert rate == pytest.approx([r * factors[step] for r in without], rel=1e-12), step
    shown = logged(tmp_path / "run")
    assert len(shown) == STEPS and shown == [pytest.approx(rate, rel=1e-12) for rate in rates]


@pytest.mark.parametrize("schedule", ["wsd", "exponential", "sequential"])
def test_a_run_that_is_resumed_within_a_ramp_ends_where_it_would_have(schedule: str, tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", schedule, RAMPS)
    saved = tmp_path / "whole/checkpoints"
    again = run(tmp_path / "again", schedule, RAMPS, ckpt_path=saved / "step=5.ckpt")
    assert again == whole[5:]
    assert_same_training_state(saved / f"step={STEPS}.ckpt", tmp_path / f"again/checkpoints/step={STEPS}.ckpt")


def test_checkpoints_and_anchors_have_the_rate_of_the_schedule(tmp_path: Path) -> None:
    """One can go on from them without the callback that grows, and grow them on disk."""
    run(tmp_path, "constant", RAMPS, saves=range(STEPS + 1))
    paths = [*(tmp_path / "checkpoints").glob("*.ckpt")]
    assert len(paths) == STEPS + 2
    for path in paths:
        (saved,) = load_checkpoint(path)["optimizer_states"]
        assert [group["lr"] for group in saved["param_groups"]] == [5e-3, 1e-3, 1e-3], path
        assert not any(SCHEDULED in group for group in saved["param_groups"])


def test_a_step_that_a_scaler_leaves_out_does_not_disturb_the_schedule(tmp_path: Path) -> None:
    """Gradients out of the range of float16: the optimizer takes no step, and its hooks are not called."""
    options = half_precision_scaler(2.0**40)
    rates = run(tmp_path / "run", "exponential", RAMPS, **options)
    assert options["plugins"][0].scaler.get_scale() < 2.0**40, "steps were left out"
    assert rates[-1] == pytest.approx([1e-3 * 0.9**9, 5e-3 * 0.9**9, 1e-3 * 0.9**9], rel=1e-12)


def test_any_optimizer_gives_its_schedule_the_rate_back() -> None:
    """Also in a module that is no GrowableModule."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = ExponentialLR(optimizer, 0.5)
    unwarm_after_steps(optimizer)
    applied = []
    for factor in (1.0, 0.1, 0.2, 1.0):
        warm([optimizer], factor)
        warm([optimizer], factor)
        applied.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert applied == pytest.approx([1.0, 0.5 * 0.1, 0.25 * 0.2, 0.125])


def test_the_bar_shows_the_rate_that_is_applied(tmp_path: Path) -> None:
    shown: list[str] = []

    class Bar(RunProgressBar):
        def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
            super().on_train_batch_end(trainer, *args)
            self.get_metrics(trainer, args[0])
            shown.append(self.train_progress_bar.fields["status"].partition(" lr ")[2])

    events = [GrowthEvent(Trigger(steps=2), depth=Depth(2), rewarm=Rewarm(4, 0.2))]
    module = {"lr_scheduler": SCHEDULES["constant"]}
    bar = Bar(console_kwargs={"file": io.StringIO(), "width": 120})
    fit(tmp_path, steps=6, events=events, module=module, before_growth=[bar], enable_progress_bar=True, saves=[6])
    rich.reconfigure()
    assert shown == ["1.00e-03", "2.00e-04", "4.00e-04", "6.00e-04", "8.00e-04", "1.00e-03"]
