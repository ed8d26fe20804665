"""What a killed run leaves among its checkpoints is removed by the one that goes on, and nothing else is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from processes import config, start


def saver(root: Path, **options: object) -> list[dict[str, object]]:
    init = {"dirpath": str(root / "checkpoints"), "filename": "{step}", "every_n_train_steps": 1, "monitor": "step"}
    return [
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {**init, "mode": "max", "save_top_k": 1, **options},
        }
    ]


def names(root: Path) -> set[str]:
    return {path.name for path in (root / "checkpoints").iterdir()}


def test_checkpoints_outside_the_rotation_and_halves_of_some_go(tmp_path: Path) -> None:
    root = tmp_path / "run"
    path = config(root, trainer__callbacks=saver(root), trainer__max_steps=4)
    assert start("fit", "--config", path, log=tmp_path / "log").wait() == [0]
    assert names(root) == {"step=4.ckpt"}
    folder = root / "checkpoints"
    newest = (folder / "step=4.ckpt").stat().st_mtime_ns
    for name in ("step=3.ckpt", "anchor-step=2.ckpt", "mine.ckpt", "step=9.ckpt"):
        shutil.copy(folder / "step=4.ckpt", folder / name)
        age = -1 if name == "step=9.ckpt" else 10**9
        os.utime(folder / name, ns=(newest - age, newest - age))
    (folder / ".interrupt-step=2.ckpt.part").write_bytes(b"half")
    (folder / ".step=4.ckpt.old").mkdir()
    (folder / ".step=7.ckpt.old").mkdir()
    run = start(
        "fit", "--config", path, "--ckpt_path", folder / "step=4.ckpt", "--trainer.max_steps", 5, log=tmp_path / "l"
    )
    assert run.wait() == [0], run.output
    # Lightning keeps what it has gone on from.
    assert names(root) == {
        "step=4.ckpt",
        "step=5.ckpt",
        "anchor-step=2.ckpt",
        "mine.ckpt",
        "step=9.ckpt",
        ".step=7.ckpt.old",
    }
    told = next(line for line in run.output.splitlines() if "what a killed run had left" in line)
    assert told.endswith(": .interrupt-step=2.ckpt.part, .step=4.ckpt.old, step=3.ckpt")


def test_a_rotation_that_keeps_all_keeps_all(tmp_path: Path) -> None:
    root = tmp_path / "run"
    path = config(root, trainer__callbacks=saver(root, save_top_k=-1), trainer__max_steps=3)
    assert start("fit", "--config", path, log=tmp_path / "log").wait() == [0]
    fewer = config(root, trainer__callbacks=saver(root, save_top_k=2), trainer__max_steps=4)
    run = start("fit", "--config", fewer, "--ckpt_path", "last", log=tmp_path / "log")
    assert run.wait() == [0], run.output
    assert "what a killed run had left" not in run.output
    assert "step=4.ckpt" in names(root) and {"step=2.ckpt", "step=3.ckpt"} & names(root)
