"""Whatever logger is configured holds scalars, texts, pictures and losses over tokens, as far as it can."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import PIL.Image
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure
from monitored import STEPS, TOKENS_PER_STEP, monitored, monitors
from runs import fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_recycle.callbacks.monitor import Picture, write_pictures
from lit_recycle.commands.report import main
from lit_recycle.report.read import read_run
from lit_recycle.report.written import read_csv, read_tensorboard
from lit_recycle.training.spikes import SpikeSkip

TEXTS = ("run/start", "run/plan", "growth/record", "growth/event")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("both") / "run"
    monitored(root, saves=())
    return root


def test_a_csv_run_is_read_as_tensorboard_is(root: Path) -> None:
    csv, events = read_csv(root / "csv"), read_tensorboard(root)
    known = {tag for tag in events.scalars if "/" in tag}
    assert known == {tag for tag in csv.scalars if "/" in tag} and len(known) > 40
    for tag in known:
        assert csv.scalars[tag].steps.tolist() == events.scalars[tag].steps.tolist(), tag
        np.testing.assert_allclose(csv.scalars[tag].values, events.scalars[tag].values, rtol=1e-6, atol=1e-7)
    assert csv.texts == {tag: events.texts[tag] for tag in csv.texts} and set(TEXTS) <= csv.texts.keys()
    assert csv.arrays.keys() == events.arrays.keys() - {"custom_scalars__config__"} and len(csv.arrays) > 3
    for tag, values in csv.arrays.items():
        last = dict(events.arrays[tag])  # a growth and the step after it draw the same picture
        assert [step for step, _ in values] == sorted(last), tag
        assert all(np.array_equal(ours, last[step], equal_nan=True) for step, ours in values), tag
    pictures = {path.parent.relative_to(root / "csv/pictures").as_posix() for path in root.rglob("*.png")}
    assert {"norms/profile", "experts/load"} <= pictures


def test_the_report_reads_a_csv_run(root: Path, tmp_path: Path) -> None:
    assert main([str(root / "csv"), "--out", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").stat().st_size > 100_000
    assert read_run(root / "csv").stages() == read_run(root).stages()


def test_versions_of_a_resumed_csv_run_are_one_run(tmp_path: Path) -> None:
    """Resumed from step 4, it does two steps again; the points of before are taken back."""

    def run(folder: str, steps: int, ckpt_path: Path | None = None) -> None:
        logger = CSVLogger(tmp_path / folder, name="")
        fit(
            tmp_path / folder,
            steps=steps,
            ckpt_path=ckpt_path,
            logger=logger,
            log_every_n_steps=1,
            callbacks=monitors(),
        )

    run("whole", STEPS)
    run("parts", 8)
    run("parts", STEPS, tmp_path / "parts/checkpoints/step=4.ckpt")
    assert {path.name for path in (tmp_path / "parts").glob("version_*")} == {"version_0", "version_1"}
    parts, whole = read_run(tmp_path / "parts"), read_run(tmp_path / "whole")
    for tag in ("loss/train", "compute/flops", "growth/loss_jump", "norms/layer_00"):
        assert parts.scalars[tag].steps.tolist() == whole.scalars[tag].steps.tolist(), tag
        np.testing.assert_allclose(parts.scalars[tag].values, whole.scalars[tag].values, rtol=1e-6)
    assert [record["steps"] for record in parts.growth] == [3, 6]
    assert parts.stages() == whole.stages()


def test_wandb_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb", reason="wandb is not installed")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = WandbLogger(save_dir=tmp_path, offline=True, project="grown")
    fit(
        tmp_path / "run",
        logger=logger,
        log_every_n_steps=1,
        limit_val_batches=1,
        val_check_interval=3,
        callbacks=monitors(),
    )
    summary = dict(logger.experiment.summary)
    assert summary["axis/tokens"] == summary["compute/tokens"] - 1 == STEPS * TOKENS_PER_STEP - 1
    assert {"loss/train_over_tokens", "loss/val_over_GFLOPs", "growth/mark_2_over_tokens", "loss/val"} <= summary.keys()
    assert set(TEXTS) | {"norms/profile", "experts/load"} <= summary.keys()
    wandb.finish()
    files = {path.suffix for path in tmp_path.glob("wandb/offline-run-*/files/media/**/*") if path.is_file()}
    assert files == {".png", ".html"}


def test_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLFlowLogger("grown", tracking_uri=f"file:{tmp_path / 'mlruns'}")
    fit(tmp_path / "run", logger=logger, log_every_n_steps=1, callbacks=monitors())
    client, run = logger.experiment, logger.run_id
    points = client.get_metric_history(run, "loss/train_over_tokens")
    assert [point.step for point in points] == [step * TOKENS_PER_STEP for step in range(STEPS)]
    assert {tag.partition("/")[0] for tag in ("norms/profile", *TEXTS)} <= {
        file.path for file in client.list_artifacts(run)
    }
    assert {Path(file.path).suffix for file in client.list_artifacts(run, "norms/profile")} == {".png"}
    assert {Path(file.path).suffix for file in client.list_artifacts(run, "growth/record")} == {".md"}


class Stop(L.Callback):
    """Ends the run after a step, as Lightning's Timer does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


def test_losses_and_norms_are_those_of_the_step_that_they_are_logged_for(tmp_path: Path) -> None:
    logger, skip = CSVLogger(tmp_path, name="", version=""), {"spike_skip": SpikeSkip()}
    options = {"accumulate_grad_batches": 2, "log_every_n_steps": 3, "saves": (), "events": []}
    _, _, losses = fit(tmp_path, logger=logger, module=skip, callbacks=[Stop(7)], **options)
    points = read_csv(tmp_path).scalars
    assert points["loss/train"].steps.tolist() == [2, 5, 6], "every third, and the last"
    assert points["loss/train"].values.tolist() == [losses[2 * step + 1] for step in (2, 5, 6)]
    assert len(set(points["gradient/norm"].values)) == 3
    assert points["gradient/skipped_steps"].steps.tolist() == [2, 5, 6]


def test_a_picture_is_drawn_once_for_all_loggers(tmp_path: Path) -> None:
    figures = []

    def draw() -> Figure:
        figures.append(Figure(figsize=(2, 1), dpi=50))
        figures[-1].add_subplot().plot([1, 3, 2])
        return figures[-1]

    loggers = [TensorBoardLogger(tmp_path / "tb", "", ""), CSVLogger(tmp_path / "csv", "", "")]
    trainer = SimpleNamespace(is_global_zero=True, loggers=loggers)
    write_pictures(trainer, [Picture("norms/profile", torch.ones(2), draw)], 3)
    assert len(figures) == 1
    loggers[0].experiment.flush()
    events = EventAccumulator(str(tmp_path / "tb"), size_guidance={"images": 0}).Reload()
    (shown,) = events.Images("norms/profile")
    pixels = [
        np.asarray(PIL.Image.open(file))
        for file in (io.BytesIO(shown.encoded_image_string), tmp_path / "csv/pictures/norms/profile/step=3.png")
    ]
    assert shown.step == 3 and pixels[0].shape == (50, 100, 3) and pixels[0].min() < 100 < pixels[0].max()
    assert np.array_equal(*pixels)
