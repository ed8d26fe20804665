"""Commands as a user runs them, each in processes of its own that a server with all imports done has forked."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing as mp
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

TEXT = str(Path(json.__file__).parent)
"""Real text that every machine has: the sources of the standard library's json package."""

BIN = Path(sys.executable).parent / "lit-recycle"
FORKSERVER = mp.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["warm"])

EVENTS = [
    {"at": {"steps": 2}, "depth": {"factor": 2}},
    {"at": {"steps": 4}, "width": {"factor": 2, "noise": 0.01}, "rewarm": {"steps": 2}},
]


def config(root: Path, **changes: Any) -> Path:
    """A configuration file of a run of six steps that grows twice and saves after every step.

    It samples no text at its end, which would take longer than its steps.

    Args:
        root: The run's folder; the file is beside it.
        **changes: Values by key, with two underscores for each dot.
    """
    values: dict[str, Any] = {
        "seed_everything": 7,
        "trainer": {
            "accelerator": "cpu",
            "max_steps": 6,
            "default_root_dir": str(root),
            "gradient_clip_val": 1.0,
            "logger": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "check_val_every_n_epoch": None,
            "limit_val_batches": 0,
            "num_sanity_val_steps": 0,
            "callbacks": [
                {"class_path": "lit_recycle.callbacks.GrowthCallback", "init_args": {"events": EVENTS}},
                {
                    "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
                    "init_args": {
                        "dirpath": "${trainer.default_root_dir}/checkpoints",
                        "filename": "{step}",
                        "every_n_train_steps": 1,
                        "save_top_k": -1,
                    },
                },
                {"class_path": "lit_recycle.callbacks.RunSummary", "init_args": {"sample_tokens": 0}},
            ],
        },
        "model": {
            "config": {
                "vocab_size": 257,
                "hidden_size": 16,
                "num_layers": 2,
                "num_heads": 2,
                "num_experts": 4,
                "top_k": 2,
                "expert_size": 8,
            }
        },
        "data": {"path": TEXT, "seq_len": 32, "batch_size": 4, "cache_dir": str(root.parent / "cache")},
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        below = values
        for name in path:
            below = below.setdefault(name, {})
        below[last] = value
    path = root.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(values))
    return path


@dataclass
class Command:
    """A command that runs on one process or on several."""

    processes: list[Any]
    log: Path

    def wait(self, seconds: float = 600) -> list[int]:
        """Exit codes of all processes; a signal is negative.

        Whoever is still there after the time is a failure, and says in the log where it is.
        """
        end = time.monotonic() + seconds
        for process in self.processes:
            process.join(max(end - time.monotonic(), 0.1))
        late = [p for p in self.processes if p.is_alive()]
        for process in late:
            os.kill(process.pid, signal.SIGUSR2)
        if late:
            time.sleep(1)
        for process in late:
            process.kill()
        assert not late, f"{len(late)} processes still run after {seconds} s:\n{self.output}"
        return [p.exitcode for p in self.processes]

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def errors(self) -> list[str]:
        return [line for line in self.output.splitlines() if line.startswith("error")]


def start(
    *argv: object, log: Path, world: int = 1, nodes: bool = False, before: Callable[[], None] | None = None
) -> Command:
    """``lit-recycle argv`` on so many processes, as torchrun would start them. Output goes to a file.

    Args:
        *argv: The command line.
        log: The file.
        world: Number of processes.
        nodes: Each process believes to be alone on a machine of its own.
        before: Called in each process before the command.
    """
    return start_each([list(map(str, argv))] * world, log=log, nodes=nodes, before=before)


def start_each(
    argvs: list[list[str]], *, log: Path, nodes: bool = False, before: Callable[[], None] | None = None
) -> Command:
    """One process per command line, of one run."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log.write_text("")
    processes = []
    for rank, argv in enumerate(argvs):
        node, local = (rank, 0) if nodes else (0, rank)
        several = {
            "LOCAL_RANK": str(local),
            "NODE_RANK": str(node),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        processes.append(fork(_run, argv, log, several if len(argvs) > 1 else {}, before))
    return Command(processes, log)


def fork(target: Callable[..., None], *args: Any) -> Any:
    """A process that runs ``target(*args)``, forked from one in which all is imported: see warm.py."""
    process = FORKSERVER.Process(target=target, args=args)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent))  # for the server, which starts with the first process
        process.start()
    return process


def _run(argv: list[str], log: Path, environment: dict[str, str], before: Callable[[], None] | None) -> None:
    import torch

    from lit_recycle.cli import main

    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    faulthandler.register(signal.SIGUSR2)
    os.environ |= environment
    sys.argv = [str(BIN), *argv]
    torch.set_num_threads(1)
    if before:
        before()
    sys.exit(main(argv))
