"""The monitors as the shipped configuration has them, in commands that are killed without warning."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitored import Log
from processes import config, start

MONITORS = {
    f"lit_recycle.callbacks.{name}"
    for name in (
        "RunProgressBar",
        "TensorBoardLayout",
        "ExpertLoadMonitor",
        "WeightNormMonitor",
        "GrowthMonitor",
        "ComputeMonitor",
        "DataMonitor",
        "ForgettingMonitor",
    )
}
QUICKSTART = Path(__file__).parents[2] / "configs" / "quickstart.yaml"
TENSORBOARD = {
    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
    "init_args": {"save_dir": "${trainer.default_root_dir}", "name": "", "version": "", "default_hp_metric": False},
}


def write_config(root: Path) -> Path:
    """The run of `commands`, logged at each step by the quickstart's logger and callbacks."""
    shipped = yaml.safe_load(QUICKSTART.read_text())["trainer"]
    assert shipped["logger"] == TENSORBOARD
    monitors: list[dict[str, Any]] = [c for c in shipped["callbacks"] if c["class_path"] in MONITORS]
    assert len(monitors) == len(MONITORS)
    path = config(root, trainer__logger=TENSORBOARD, trainer__log_every_n_steps=1)
    values = yaml.safe_load(path.read_text())
    values["trainer"] |= {"limit_val_batches": 1, "val_check_interval": 2, "enable_progress_bar": True}
    values["trainer"]["callbacks"] = [*monitors, *values["trainer"]["callbacks"]]
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shipped") / "whole"
    assert start("fit", "--config", write_config(root), log=root.with_suffix(".log")).wait() == [0]
    return root


@pytest.mark.parametrize("at", ["step=5", "grown=4"])
def test_curves_of_a_killed_run_are_those_of_the_whole_one(whole: Path, tmp_path: Path, at: str) -> None:
    root, log = tmp_path / "run", tmp_path / "log"
    path = write_config(root)
    kill = ("--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at", at)
    assert start("fit", "--config", path, *kill, log=log).wait() == [-signal.SIGKILL]
    assert start("fit", "--config", path, "--ckpt_path", "last", log=log).wait() == [0]
    for folder in ("", "over_tokens"):
        expected, found = Log(whole / folder), Log(root / folder)
        assert found.tags == expected.tags
        for tag in expected.tags:
            if "second" in tag or "wait" in tag:  # times are never the same
                assert [x for x, _ in found.points(tag)] == [x for x, _ in expected.points(tag)], tag
            else:
                assert found.points(tag) == expected.points(tag), tag


def test_evaluating_leaves_the_curves_alone_and_the_report_is_made(whole: Path) -> None:
    before, log = Log(whole).points("loss/val"), whole.with_name("evaluated.log")
    checked = start("validate", "--config", whole.with_suffix(".yaml"), "--ckpt_path", "last", log=log)
    assert checked.wait() == [0]
    assert Log(whole).points("loss/val") == before and str(before[-1][1])[:7] in checked.output
    assert start("report", whole, log=log).wait() == [0]
    assert (whole / "report" / "report.html").stat().st_size > 100_000
    refused = start("report", whole / "checkpoints", log=log)
    assert refused.wait() == [2] and len(refused.errors) == 1
