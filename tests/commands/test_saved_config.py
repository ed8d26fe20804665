"""The configuration beside a run's logs: trained from in another folder, it leaves the first one alone."""

from __future__ import annotations

from pathlib import Path

import yaml
from processes import config, start

from lit_recycle.commands.saved_config import ROOT, STEPS, relative


def test_run_again_in_another_folder_nothing_is_written_into_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    options = {"save_dir": "${trainer.default_root_dir}", "name": "", "version": ""}
    logger = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": options}
    run = start("fit", "--config", config(first, trainer__logger=logger), log=tmp_path / "log")
    assert run.wait() == [0], run.output
    written = {file: file.stat().st_mtime_ns for file in first.rglob("*")}
    run = start("fit", "--config", first / "config.yaml", "--trainer.default_root_dir", second, log=tmp_path / "log2")
    assert run.wait() == [0], run.output
    assert {file: file.stat().st_mtime_ns for file in first.rglob("*")} == written
    names = [{file.relative_to(folder) for file in folder.rglob("*.ckpt")} for folder in (first, second)]
    assert names[0] == names[1] and Path("checkpoints/step=6.ckpt") in names[0]
    assert list(second.glob("events.*"))
    values = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (first, second)]
    assert [v["trainer"].pop("default_root_dir") for v in values] == [str(first), str(second)]
    assert values[0] == values[1]


def test_only_what_is_written_to_follows_the_folder() -> None:
    """Neither texts nor what is read, wherever that lies."""
    stays = {
        "path": "./books",
        "prompts": ["./configure && make", "."],
        "cache_dir": "./cache",
        "default_root_dir": ".",
    }
    values = {"a": [{"dirpath": "./checkpoints"}, {"save_dir": "."}, {"dirpath": "elsewhere", "save_dir": None}]}
    moved = {"a": [{"dirpath": f"{ROOT}/checkpoints"}, {"save_dir": ROOT}, {"dirpath": "elsewhere", "save_dir": None}]}
    assert relative(values | stays, ".", 6) == moved | stays
    assert relative({"dirpath": "runs/ab"}, "runs/a", 6) == {"dirpath": "runs/ab"}


def test_a_schedule_that_ends_with_the_run_follows_its_length() -> None:
    schedules = [{"total_steps": 6}, {"total_steps": 4, "warmup_steps": 6}]
    assert relative(schedules, ".", 6) == [{"total_steps": STEPS}, {"total_steps": 4, "warmup_steps": 6}]
