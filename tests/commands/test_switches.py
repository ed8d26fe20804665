"""Switches of the trainer and the shipped configuration, which brings what they switch off."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import TEXT

from lit_recycle.cli import main

SMALL = {
    "model.config.hidden_size": 16,
    "model.config.num_heads": 2,
    "model.config.num_layers": 1,
    "model.config.expert_size": 8,
    "model.lr_scheduler.init_args.warmup_steps": 1,
    "model.lr_scheduler.init_args.decay_steps": 1,
    "trainer.accelerator": "cpu",
    "trainer.max_steps": 4,
    "trainer.val_check_interval": 4,
    "trainer.limit_val_batches": 1,
    "data.path": TEXT,
    "data.seq_len": 32,
    "data.batch_size": 2,
    "growth.events.0.at.steps": 2,
    "growth.events.1.at.steps": 3,
}


@pytest.mark.parametrize("off", [["enable_progress_bar"], ["enable_checkpointing", "logger"]])
def test_what_is_switched_off_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], off: list[str]) -> None:
    values = {**SMALL, "trainer.default_root_dir": tmp_path / "run", "data.cache_dir": tmp_path / "cache"}
    values |= {f"trainer.{name}": "false" for name in off}
    argv = [str(part) for name, value in values.items() for part in (f"--{name}", value)]
    assert main(["fit", "--config", "configs/quickstart.yaml", *argv]) == 0, capsys.readouterr().err
    if "enable_checkpointing" in off:
        assert not list(tmp_path.rglob("step=*.ckpt")) and not list(tmp_path.rglob("events.*"))
