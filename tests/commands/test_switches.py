"""Switches of the trainer and callbacks that a run brings by itself: both give way to what a user writes."""

from __future__ import annotations

from pathlib import Path

import pytest
from processes import TEXT, config

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
    assert "sampled continuation" in capsys.readouterr().out
    if "enable_checkpointing" in off:
        assert not list(tmp_path.rglob("step=*.ckpt")) and not list(tmp_path.rglob("events.*"))


def test_callbacks_that_each_run_has_take_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    callbacks = [
        {"class_path": "RunSummary", "init_args": {"sample_tokens": 0}},
        {"class_path": "TokenLossWriter", "init_args": {"dirpath": str(tmp_path / "losses")}},
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": {"every_n_train_steps": 1}},
    ]
    run = config(tmp_path / "run", trainer__callbacks=callbacks)
    assert main(["fit", "--config", str(run), "--trainer.max_steps", "1"]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert told.count("tokens per second") == 1 and "sampled continuation" not in told
    predict = ["predict", "--config", str(run), "--ckpt_path", "last", "--trainer.limit_predict_batches", "1"]
    assert main(predict) == 0, capsys.readouterr().err
    assert [path.name for path in tmp_path.rglob("token_losses*.npz")] == ["token_losses.npz"]
    assert (tmp_path / "losses/token_losses.npz").exists()
