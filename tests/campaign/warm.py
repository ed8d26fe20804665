"""A process in which all is imported, and every parser has run once, so that each trial is a fork of it."""

from __future__ import annotations

import gc
import io
import multiprocessing as mp
import os
import sys
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path

import processes
import torch
from processes import BIN, config

from lit_recycle.cli import main


def up(folder: Path) -> None:
    """Run commands that are refused, for what they import and remember, and let commands be forked from here.

    A command that is refused takes a tenth of the time then, and a run a few seconds less.
    """
    torch.set_num_threads(1)
    before, path = dict(os.environ), config(folder / "warm")
    nothing = folder / "nothing"
    for argv in (
        ("fit", "--config", path, "--trainer.devices", "0"),
        ("fit", "--config", path, "--data.seq_len", "0"),
        ("plan", "--config", path, "--trainer.devices", "some"),
        ("validate", "--config", path),
        ("generate", "--ckpt_path", nothing),
        ("grow", nothing, nothing, "--depth", "2"),
        ("import", nothing, nothing),
        ("export", nothing, nothing),
    ):
        sys.argv = [str(BIN), *map(str, argv)]
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), suppress(SystemExit):
            assert main([str(word) for word in argv]) == 2, argv
    os.environ.clear()
    os.environ.update(before)
    gc.collect()
    gc.freeze()  # so that forks share the memory
    processes.FORKSERVER = mp.get_context("fork")
