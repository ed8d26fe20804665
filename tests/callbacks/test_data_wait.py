"""The share of time that a run waits for data, as it is logged and shown."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pytest
import rich
from lightning.pytorch.loggers import TensorBoardLogger
from monitored import Log
from runs import fit

from lit_recycle.callbacks import ComputeMonitor, RunProgressBar
from lit_recycle.data.batches import TokenBatches

SLOW = 0.2


def run(root: Path) -> tuple[list[float], str]:
    """Shares at steps 1 and 2, the first being that of the start, and what the console has shown."""
    stream = io.StringIO()
    bar = RunProgressBar(1000, console_kwargs={"file": stream, "width": 200, "force_terminal": True})
    logger = TensorBoardLogger(root, name="", version="", default_hp_metric=False)
    options: dict[str, Any] = {"logger": logger, "log_every_n_steps": 1, "enable_progress_bar": True}
    fit(root, steps=4, events=[], save_every=100, callbacks=[ComputeMonitor(), bar], **options)
    rich.reconfigure()
    return [share for _, share in Log(root).points("compute/data_wait_share")][1:], stream.getvalue()


def test_slow_data_is_logged_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gather = TokenBatches.batch

    def slowly(*args: Any) -> Any:
        time.sleep(SLOW)
        return gather(*args)

    monkeypatch.setattr(TokenBatches, "batch", slowly)
    shares, shown = run(tmp_path)
    assert len(shares) == 3 and all(0.5 < share < 1 for share in shares)
    assert "data wait " in shown


def test_fast_data_is_logged_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_recycle.callbacks.progress.WAIT_SHOWN_FROM", 0.5)
    shares, shown = run(tmp_path)
    assert len(shares) == 3 and all(0 < share < 0.5 for share in shares)
    assert " tokens/s" in shown and "data wait" not in shown
