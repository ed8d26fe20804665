"""A run over several sources, as a user runs it: killed and resumed, planned, and logged."""

from __future__ import annotations

import email
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from data import token_files
from monitored import Log
from processes import TEXT, config, start
from runs import assert_same_training_state

from lit_recycle.cli import main
from lit_recycle.data.digests import SETTLED_NS

LAST = "checkpoints/step=6.ckpt"
TOKENS_PER_STEP = 4 * 32
TENSORBOARD = {
    "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
    "init_args": {"save_dir": "${trainer.default_root_dir}", "name": "", "version": ""},
}
STAGES: list[dict[str, Any]] = [
    {"weights": {"json": 3, "email": 1}, "until": {"tokens": TOKENS_PER_STEP * 1.5}},
    {"weights": {"json": 1, "lines": 1}, "until": {"growth": 1}},
    {"weights": {"email": 0.25, "lines": 0.75}},
]


def write_config(root: Path) -> Path:
    """The run of `processes.config`, which grows before its third and fifth step, over text, ids and JSON lines."""
    lines = root.parent / "lines.jsonl"
    lines.write_text("".join(json.dumps({"text": f"{i} bottles of beer on the wall, " * 3}) + "\n" for i in range(99)))
    files = sorted(Path(email.__file__).parent.glob("*.py"))
    token_files.megatron(root.parent, [np.array([*file.read_bytes(), token_files.EOS]) for file in files])
    path = config(root, data__stages=STAGES, trainer__log_every_n_steps=1, trainer__logger=TENSORBOARD)
    values = yaml.safe_load(path.read_text())
    del values["data"]["path"]
    values["data"]["sources"] = [
        {"name": "json", "path": TEXT},
        {"name": "email", "path": str(root.parent / "corpus_text_document")},
        {"name": "lines", "path": str(lines), "max_epochs": 2},
    ]
    values["trainer"]["callbacks"].append({"class_path": "lit_recycle.callbacks.DataMonitor"})
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("mixture") / "whole"
    path = write_config(root)
    time.sleep(SETTLED_NS / 1e9 + 0.1)  # what is known of younger files is not kept, and a plan could not tell of them
    run = start("fit", "--config", path, log=root.with_suffix(".log"))
    assert run.wait() == [0], run.output
    return root


def test_killed_anywhere_it_ends_bit_for_bit_where_it_would_have_ended(whole: Path, tmp_path: Path) -> None:
    root, log = tmp_path / "run", tmp_path / "log"
    path = write_config(root)
    for at in ("step=1", "grown=2", "saving=3", "step=5"):
        kill = ("--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at", at)
        run = start("fit", "--config", path, "--ckpt_path", "last", *kill, log=log)
        assert run.wait() == [-signal.SIGKILL], run.output
    run = start("fit", "--config", path, "--ckpt_path", "last", log=log)
    assert run.wait() == [0], run.output
    assert_same_training_state(whole / LAST, root / LAST)
    for tag in ("data/tokens_email", "data/epochs_lines"):
        ends = [dict(Log(folder).points(tag))[5] for folder in (whole, root)]
        assert ends[0] == ends[1] > 0


def test_tokens_and_epochs_are_those_of_the_plan(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(whole.with_suffix(".yaml"))
    assert main(["plan", "--config", path, "--json"]) == 0
    rows = {row["source"]: row for row in json.loads(capsys.readouterr().out)["data"]}
    log = Log(whole)
    for name, row in rows.items():
        assert row["tokens_drawn"] == log.value(f"data/tokens_{name}", 5)
        assert row["epochs"] == pytest.approx(log.value(f"data/epochs_{name}", 5), rel=1e-6)
        assert row["tokens"] > 1000
    assert sum(row["tokens_drawn"] for row in rows.values()) == 6 * TOKENS_PER_STEP
    # One step and a half of 3 to 1, one and a half of halves, three of 1 to 3; samples of 32 tokens.
    samples = {name: row["tokens_drawn"] / 32 for name, row in rows.items()}
    for name, expected in {"json": 4.5 + 3, "email": 1.5 + 3, "lines": 3 + 9}.items():
        assert abs(samples[name] - expected) <= 1.5
    assert main(["plan", "--config", path]) == 0
    assert "lines" in (shown := capsys.readouterr().out) and "tokens of the run" in shown


def test_growths_of_an_earlier_run_are_planned_as_they_are_counted(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = ["--model.config", "null", "--model.init_from", str(whole / LAST), "--trainer.callbacks", "[]"]
    options = ["--config", str(whole.with_suffix(".yaml")), *source, "--trainer.callbacks+", "DataMonitor"]
    assert main(["plan", *options, "--json"]) == 0, capsys.readouterr().err
    rows = {row["source"]: row for row in json.loads(capsys.readouterr().out)["data"]}
    run = start("fit", *options, "--trainer.default_root_dir", tmp_path / "run", log=tmp_path / "log")
    assert run.wait() == [0], run.output
    for name, row in rows.items():
        assert row["tokens_drawn"] == Log(tmp_path / "run").value(f"data/tokens_{name}", 5)


@pytest.mark.parametrize("said", [("path", TEXT), ("sources", f"[{{name: json, path: {TEXT}}}]")])
def test_a_checkpoint_of_sources_is_validated_on_others(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], said: tuple[str, str]
) -> None:
    options = [f"--data.{said[0]}", said[1], "--trainer.limit_val_batches", "1", "--trainer.accelerator", "cpu"]
    options += ["--trainer.default_root_dir", str(tmp_path)]
    assert main(["validate", "--ckpt_path", str(whole / LAST), *options]) == 0, capsys.readouterr().err
    assert "loss/val_email" not in capsys.readouterr().out


def test_a_plan_knows_sizes_only_of_what_is_there(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sources = "[{name: a, path: /nowhere}, {name: b, path: THERE, weight: 3, max_epochs: 0.001}]".replace("THERE", TEXT)
    options = ["--config", str(whole.with_suffix(".yaml")), "--data.stages=null"]
    assert main(["plan", *options, f"--data.sources={sources}"]) == 2
    assert "through source 'b'" in (told := capsys.readouterr().err) and "its max_epochs is 0.001" in told
    assert main(["plan", *options, "--json", f"--data.sources={sources.replace(', max_epochs: 0.001', '')}"]) == 0
    first, second = json.loads(capsys.readouterr().out)["data"]
    assert first["tokens"] is first["epochs"] is None and first["tokens_drawn"] * 3 == second["tokens_drawn"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--data.path", TEXT], "data.path and data.sources exclude each other"),
        (["--data.stages", "[{weights: {jsn: 1}}]"], "there is no source 'jsn' among json, email, lines"),
        (
            ["--data.stages", "[{weights: {json: 1}, until: {growth: 3}}, {weights: {lines: 1}}]"],
            "data.stages: stage 1 lasts until growth 3, and the model goes through 2",
        ),
    ],
)
@pytest.mark.parametrize("command", ["plan", "fit"])
def test_what_does_not_fit_together_is_refused(
    whole: Path, capsys: pytest.CaptureFixture[str], command: str, options: list[str], says: str
) -> None:
    assert main([command, "--config", str(whole.with_suffix(".yaml")), *options]) == 2
    assert says in capsys.readouterr().err
