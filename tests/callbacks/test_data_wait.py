"""The share of time that a run waits for data, as it is logged and shown, by a clock that only these tests move."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest
import rich
from lightning.pytorch.loggers import TensorBoardLogger
from monitored import Log
from runs import fit

from lit_recycle.callbacks import ComputeMonitor, RunProgressBar
from lit_recycle.data.batches import TokenBatches

READERS = ("lit_recycle.callbacks.compute", "lit_recycle.callbacks.progress", "lit_recycle.data.loader")
"""Modules that ask the clock."""


class Trains(L.Callback):
    """Each step of training takes a second."""

    def __init__(self, clock: SimpleNamespace) -> None:
        self.clock = clock

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.now += 1.0


def run(root: Path, monkeypatch: pytest.MonkeyPatch, gathering: float) -> tuple[list[float], str]:
    """Shares at steps 1 and 2 and at the end, and what the console has shown, where a batch takes `gathering` s."""
    clock = SimpleNamespace(now=0.0)
    for module in READERS:
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(perf_counter=lambda: clock.now))
    gather = TokenBatches.batch

    def gather_and_tick(*args: Any) -> Any:
        clock.now += gathering
        return gather(*args)

    monkeypatch.setattr(TokenBatches, "batch", gather_and_tick)
    stream = io.StringIO()
    bar = RunProgressBar(1000, console_kwargs={"file": stream, "width": 200, "force_terminal": True})
    logger = TensorBoardLogger(root, name="", version="", default_hp_metric=False)
    options: dict[str, Any] = {"logger": logger, "log_every_n_steps": 1, "enable_progress_bar": True}
    fit(root, steps=4, events=[], saves=(), callbacks=[Trains(clock), ComputeMonitor(), bar], **options)
    rich.reconfigure()
    return [share for _, share in Log(root).points("compute/data_wait_share")][1:], stream.getvalue()


def test_slow_data_is_logged_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares, shown = run(tmp_path, monkeypatch, gathering=3.0)
    assert shares == [0.75] * 3
    assert "data wait 75%" in shown


def test_fast_data_is_logged_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shares, shown = run(tmp_path, monkeypatch, gathering=2**-7)
    assert shares == [pytest.approx(1 / 129)] * 3
    assert " tokens/s" in shown and "data wait" not in shown
