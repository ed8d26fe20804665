"""A user's own classes, in the folder where a command is called."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from processes import config

from lit_recycle.cli import main

MINE = """
from pathlib import Path

import lightning as L


class Mine(L.Callback):
    def __init__(self, path: str) -> None:
        if not path:
            raise ValueError("path must name a file")
        self.path = path

    def on_train_end(self, trainer, pl_module) -> None:
        Path(self.path).write_text(str(trainer.global_step))
"""


def test_a_package_called_callbacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The commonest name for such a folder; this project's own are at lit_recycle.callbacks."""
    (tmp_path / "callbacks").mkdir()
    (tmp_path / "callbacks/__init__.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "callbacks", raising=False)
    mine = {"class_path": "callbacks.Mine", "init_args": {"path": str(tmp_path / "steps")}}
    growth = {
        "class_path": "lit_recycle.callbacks.GrowthCallback",
        "init_args": {"events": [{"at": {"steps": 1}, "depth": {"factor": 2}}]},
    }
    path = config(tmp_path / "run", trainer__callbacks=[mine, growth], trainer__max_steps=2)
    assert main(["fit", "--config", str(path)]) == 0, capsys.readouterr().err
    assert json.loads((tmp_path / "steps").read_text()) == 2


def test_arguments_that_a_class_refuses_are_told_in_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_callbacks.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    mine = {"class_path": "my_callbacks.Mine", "init_args": {"path": ""}}
    path = config(tmp_path / "run", trainer__callbacks=[mine], trainer__max_steps=2)
    assert main(["fit", "--config", str(path)]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1] == "error: path must name a file"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("shift", [None, 2])
def test_a_single_callback_needs_no_list(tmp_path: Path, capsys: pytest.CaptureFixture[str], shift: int | None) -> None:
    growth = {"class_path": "GrowthCallback", "init_args": {"events": [{"at": {"steps": 1}, "depth": {"factor": 2}}]}}
    argv = ["--config", str(config(tmp_path / "run", trainer__callbacks=growth, trainer__max_steps=3))]
    argv += [] if shift is None else ["--growth.events.0.at.steps", str(shift)]
    assert main(["plan", "--json", *argv]) == 0, capsys.readouterr().err
    assert [stage["start_step"] for stage in json.loads(capsys.readouterr().out)["stages"]] == [0, shift or 1]
    assert main(["fit", *argv]) == 0, capsys.readouterr().err
    assert f"depth ×2, at step {shift or 1}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["GrowthCallback", "lit_recycle.callbacks.growth.GrowthCallback", "my_growth.MyGrowth"]
)
def test_a_growth_is_planned_by_whichever_name_the_run_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (tmp_path / "my_growth.py").write_text(
        "from lit_recycle.callbacks import GrowthCallback\n\n\nclass MyGrowth(GrowthCallback):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    events = [{"at": {"steps": 1}, "depth": {"factor": 2}}]
    growth = {"class_path": name, "init_args": {"events": events}}
    path = config(tmp_path / "run", trainer__callbacks=[growth], trainer__max_steps=2)
    assert main(["plan", "--json", "--config", str(path)]) == 0, capsys.readouterr().err
    assert [stage["layers"] for stage in json.loads(capsys.readouterr().out)["stages"]] == [2, 4]
    assert main(["fit", "--config", str(path)]) == 0, capsys.readouterr().err
    assert "depth ×2, at step 1" in capsys.readouterr().out
