"""Without lm-eval it is said what to install."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from processes import config

from lit_recycle.cli import main


@pytest.mark.parametrize("command", ["fit", "eval"])
def test_what_to_install_is_said(command: str, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "lit_recycle.evaluation.harness", raising=False)
    callbacks = [{"class_path": "lit_recycle.callbacks.DownstreamEval", "init_args": {"tasks": ["arc_easy"]}}]
    argv = ["--config", str(config(tmp_path / "run", trainer__callbacks=callbacks))]
    argv = argv if command == "fit" else [str(tmp_path), "--tasks", "arc_easy"]
    assert main([command, *argv]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "needs lm-eval" in line and "pip install 'lit-recycle[eval]'" in line
