"""The configuration beside a run's logs: trained from in another folder, it leaves the first one alone."""

from __future__ import annotations

from pathlib import Path

import yaml
from processes import config, start

from lit_recycle.commands.saved_config import told_from


def test_run_again_in_another_folder_nothing_is_written_into_the_first(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    run = start("fit", "--config", config(first), log=tmp_path / "log")
    assert run.wait() == [0], run.output
    written = {file: file.stat().st_mtime_ns for file in first.rglob("*")}
    run = start("fit", "--config", first / "config.yaml", "--trainer.default_root_dir", second, log=tmp_path / "log2")
    assert run.wait() == [0], run.output
    assert {file: file.stat().st_mtime_ns for file in first.rglob("*")} == written
    names = [{file.relative_to(folder) for file in folder.rglob("*.ckpt")} for folder in (first, second)]
    assert names[0] == names[1] and Path("checkpoints/step=6.ckpt") in names[0]
    values = [yaml.safe_load((folder / "config.yaml").read_text()) for folder in (first, second)]
    assert [v["trainer"].pop("default_root_dir") for v in values] == [str(first), str(second)]
    assert values[0] == values[1]


def test_only_what_lies_below_the_folder_is_told_from_it() -> None:
    paths = {
        "dirpath": "runs/a/checkpoints",
        "others": ["runs/a", "runs/ab/c", "/runs/a/c", 3, None, {"x": "runs/a/b"}],
    }
    told = told_from("runs/a", paths)
    assert told["dirpath"] == "${trainer.default_root_dir}/checkpoints"
    assert told["others"] == [*paths["others"][:-1], {"x": "${trainer.default_root_dir}/b"}]
