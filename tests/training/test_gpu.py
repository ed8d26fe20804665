"""A run that grows on a GPU, or on two under FSDP2, is the growth that happens on disk; its body runs on CPUs, too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers import DEVICES
from runs import CONFIG, SaveAtOnce, assert_equal, by_name, fit, on_processes

from lit_recycle.checkpoints.grow import grow_checkpoint
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width

GROWTH = (Depth(2), Width(2, noise=0.0))
"""Without noise, whose scale is a sum that each device rounds in its own way."""


def run(root: Path, strategy: str, device: str) -> None:
    save = SaveAtOnce(root / "grown.ckpt", 2)
    fit(
        root / "run",
        strategy,
        steps=4,
        events=[GrowthEvent(Trigger(steps=2), *GROWTH)],
        saves=[4],
        config=CONFIG.replace(num_experts=4),
        callbacks=[save],
        precision="bf16-mixed",
        device=device,
    )


def check(root: Path) -> None:
    grow_checkpoint(root / "run/checkpoints/anchor-step=2.ckpt", root / "disk.ckpt", *GROWTH)
    in_run, on_disk = (load_whole_checkpoint(root / f"{name}.ckpt") for name in ("grown", "disk"))
    assert_equal(in_run["state_dict"], on_disk["state_dict"], "weights")
    (ours,), (theirs,) = in_run["optimizer_states"], on_disk["optimizer_states"]
    assert_equal(by_name(ours), by_name(theirs), "optimizer")
    after = load_whole_checkpoint(root / "run/checkpoints/step=4.ckpt")["state_dict"]
    assert all(torch.isfinite(tensor).all() for tensor in after.values())


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_in_bfloat16_grows_as_on_disk(device: str, tmp_path: Path) -> None:
    run(tmp_path, "auto", device)
    check(tmp_path)


@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.families), pytest.param("cuda", marks=pytest.mark.gpu(devices=2))],
)
def test_a_run_on_two_devices_under_fsdp2_grows_as_on_disk(device: str, tmp_path: Path) -> None:
    on_processes(2, run, tmp_path, "fsdp2", device)
    check(tmp_path)
