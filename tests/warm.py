"""What a process does before the first fork of it: all imports, and each parser once, so that commands start warm.

A command that is refused takes a tenth of the time then, and a run a second less.
"""

from __future__ import annotations

import gc
import io
import os
import sys
import tempfile
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import torch
from processes import BIN, config

import lit_recycle.callbacks  # noqa: F401
from lit_recycle.cli import main


def run_refused_commands(folder: Path) -> None:
    """Commands with a mistake that is found late, for what they import and remember."""
    run, nothing = config(folder / "run"), folder / "nothing"
    for argv in (
        ("fit", "--config", run, "--trainer.devices", "0"),
        ("fit", "--config", run, "--data.seq_len", "0"),
        ("plan", "--config", run, "--trainer.devices", "some"),
        ("validate", "--config", run),
        ("generate", "--ckpt_path", nothing),
        ("grow", nothing, nothing, "--depth", "2"),
        ("import", nothing, nothing),
        ("export", nothing, nothing),
    ):
        sys.argv = [str(BIN), *map(str, argv)]
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), suppress(SystemExit):
            assert main([str(word) for word in argv]) == 2, argv


def warm_up() -> None:
    torch.set_num_threads(1)
    os.environ.pop("PYTHONPATH", None)  # by which the server has found this module
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        run_refused_commands(Path(folder))
    os.environ.clear()
    os.environ.update(before)
    gc.collect()
    gc.freeze()  # forks share what they do not walk through


warm_up()
