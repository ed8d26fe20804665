"""The learning rate goes on through a growth: in a run as after its anchor was grown on disk and trained on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import assert_equal, fit, on_processes

from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_checkpoint, load_whole_checkpoint
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.training.schedules import WarmupStableDecay

STEPS = 6
FORMS = (Depth(2), Width(2, noise=0.01))
SCHEDULES: dict[str, Any] = {
    "warm-up": partial(WarmupStableDecay, total_steps=STEPS, warmup_steps=4),
    "decay": partial(WarmupStableDecay, total_steps=STEPS, decay_steps=5),
    "cosine": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=STEPS),
    "exponential": partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.7),
}


def grown_in_run(root: Path, schedule: str, strategy: str = "auto") -> None:
    """A run that grows at step 2, while its rate changes at every step."""
    event = GrowthEvent(Trigger(steps=2), *FORMS)
    module = {"lr_scheduler": SCHEDULES[schedule]}
    fit(root / "run", strategy, steps=STEPS, events=[event], module=module, saves=(2, STEPS))


def resumed(root: Path, schedule: str, strategy: str = "auto") -> None:
    """The run's anchor, grown on disk, trained on."""
    module = {"lr_scheduler": SCHEDULES[schedule]}
    saved = root / "grown.ckpt"
    fit(root / "disk", strategy, steps=STEPS, events=[], ckpt_path=saved, module=module, saves=[STEPS])


def rates(path: Path) -> list[float]:
    return [schedule["_last_lr"][0] for schedule in load_checkpoint(path)["lr_schedulers"]]


def check(root: Path) -> None:
    run, disk = (load_whole_checkpoint(root / name / f"checkpoints/step={STEPS}.ckpt") for name in ("run", "disk"))
    for key in ("state_dict", "optimizer_states", "lr_schedulers", "progress", "global_step"):
        assert_equal(run[key], disk[key], key)
    middle, end = (rates(root / f"run/checkpoints/step={step}.ckpt") for step in (2, STEPS))
    assert middle != end, "the rate has changed since the growth"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_on_one_device(schedule: str, tmp_path: Path) -> None:
    grown_in_run(tmp_path, schedule)
    grow_checkpoint(tmp_path / "run/checkpoints/anchor-step=2.ckpt", tmp_path / "grown.ckpt", *FORMS)
    resumed(tmp_path, schedule)
    check(tmp_path)


STRATEGIES = ("ddp", "fsdp", "fsdp2")


def all_grown_in_runs(root: str) -> None:
    for strategy in STRATEGIES:
        grown_in_run(Path(root) / strategy, "cosine", strategy)


def all_resumed(root: str) -> None:
    for strategy in STRATEGIES:
        resumed(Path(root) / strategy, "cosine", strategy)


def test_under_each_strategy(tmp_path: Path) -> None:
    on_processes(2, all_grown_in_runs, str(tmp_path))
    for strategy in STRATEGIES:
        anchor = tmp_path / strategy / "run/checkpoints/anchor-step=2.ckpt"
        grow_checkpoint(anchor, tmp_path / strategy / "grown.ckpt", *FORMS)
    on_processes(2, all_resumed, str(tmp_path))
    for strategy in STRATEGIES:
        check(tmp_path / strategy)
