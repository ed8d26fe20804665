"""The end of a run: its last step is saved, and what is said of it is of this run."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
from processes import config

from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.cli import main


def keeper(**options: object) -> dict[str, object]:
    return {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": options}


@pytest.fixture(autouse=True)
def argv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lit-recycle"])


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        ({"every_n_train_steps": 3, "save_top_k": -1}, {"end-step=4.ckpt", "step=3.ckpt"}),
        ({"every_n_train_steps": 2, "save_top_k": -1}, {"step=2.ckpt", "step=4.ckpt"}),
        ({"every_n_train_steps": 100, "save_last": True}, {"last.ckpt"}),
        (
            {"every_n_train_steps": 3, "save_last": True, "save_top_k": -1},
            {"end-step=4.ckpt", "last.ckpt", "step=3.ckpt"},
        ),
    ],
)
def test_the_last_step_is_saved_once(
    tmp_path: Path, options: dict[str, object], saved: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run/checkpoints"
    run = config(tmp_path / "run", trainer__callbacks=[keeper(dirpath=str(folder), filename="{step}", **options)])
    assert main(["fit", "--config", str(run), "--trainer.max_steps", "4"]) == 0, capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == saved
    newest = max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert load_whole_checkpoint(newest)["global_step"] == 4
    assert f"generate --ckpt_path {newest}" in capsys.readouterr().out
    argv = ["fit", "--config", str(run), "--ckpt_path", "last", "--trainer.max_steps"]
    assert main([*argv, "4"]) == 0
    assert main([*argv, "5"]) == 0, "and goes on from there"


def test_a_run_from_elsewhere_names_its_own_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (
        config(tmp_path / name, trainer__callbacks=[keeper(every_n_train_steps=2, dirpath=str(tmp_path / name / "c"))])
        for name in ("first", "second")
    )
    assert main(["fit", "--config", str(first), "--trainer.max_steps", "2"]) == 0
    (saved,) = (tmp_path / "first/c").iterdir()
    capsys.readouterr()
    assert main(["fit", "--config", str(second), "--ckpt_path", str(saved), "--trainer.max_steps", "3"]) == 0
    assert f"generate --ckpt_path {tmp_path / 'second/checkpoints/end-step=3.ckpt'}" in capsys.readouterr().out


def test_a_stage_that_was_not_validated_has_no_loss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Validation at step 2, right before the growth, is of the stage before."""
    options = {"val_check_interval": 2, "limit_val_batches": 1}
    run = config(tmp_path / "run", **{f"trainer__{key}": value for key, value in options.items()})
    assert main(["fit", "--config", str(run), "--trainer.max_steps", "5"]) == 0, capsys.readouterr().err
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "validation loss at the end" in line)
    cells = [cell.strip() for cell in row.split("│") if cell.strip()]
    assert cells[-1] == "–" and all(float(cell) > 0 for cell in cells[1:-1]) and len(cells) == 4


def test_a_run_that_its_time_has_ended_goes_on_by_the_command_that_it_tells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config(tmp_path / "run", trainer__callbacks=[])
    argv = ["fit", "--config", str(run), "--trainer.max_steps", "400", "--trainer.max_time", "00:00:00:01"]
    monkeypatch.setattr(sys, "argv", ["lit-recycle", *argv])
    assert main(argv) == 0
    (told,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("go on:"))
    words = shlex.split(told.removeprefix("go on:"))
    assert words == ["lit-recycle", *argv[:-2], "--trainer.max_time", "null", "--ckpt_path", "last"]
    (saved,) = (tmp_path / "run/checkpoints").iterdir()
    assert 0 < load_whole_checkpoint(saved)["global_step"] < 400
    assert main(words[1:]) == 0
    assert (tmp_path / "run/checkpoints/end-step=400.ckpt").exists()


def test_a_run_that_keeps_no_text_from_training_ends_without_a_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = config(tmp_path / "run", trainer__callbacks=[keeper(every_n_train_steps=4)], data__val_fraction=0)
    assert main(["fit", "--config", str(run), "--trainer.max_steps", "4"]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert "the run" in said and "▸" not in said
