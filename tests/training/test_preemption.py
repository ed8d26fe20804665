"""Jobs of SLURM that are put into the queue again, and processes that torchrun starts again, lose nothing."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import BIN, config, start
from runs import assert_same_training_state

LAST = "checkpoints/step=6.ckpt"
JOB = {"SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "grow", "SLURM_NTASKS": "1", "SLURM_NTASKS_PER_NODE": "1"}
JOB |= {
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NNODES": "1",
    "SLURM_NODELIST": "localhost",
}
TWO = ("--trainer.strategy", "fsdp2", "--trainer.devices", "2", "--data.batch_size", "2")


def fake_scontrol(root: Path) -> Path:
    """A command that writes down in ``told`` what it is told; its folder."""
    folder = root / "bin"
    folder.mkdir()
    (folder / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {root}/told\n')
    (folder / "scontrol").chmod(0o755)
    return folder


@pytest.fixture
def scontrol(tmp_path: Path) -> Path:
    return fake_scontrol(tmp_path)


class InJob:
    """What is called in the process of the command, where it can be sent."""

    def __init__(self, folder: Path, **changes: str) -> None:
        self.folder, self.changes = folder, changes

    def __call__(self) -> None:
        os.environ |= JOB | self.changes | {"PATH": f"{self.folder}{os.pathsep}{os.environ['PATH']}"}


def script_of_the_page(path: Path) -> list[str]:
    """The command of the script in docs/clusters.md, on one process of one node."""
    page = (Path(__file__).parents[2] / "docs/clusters.md").read_text()
    (command,) = re.findall(r"^srun lit-recycle (.*?)\n```", page, re.M | re.S)
    command = command.replace("\\\n", "").replace("$SLURM_NNODES", "1").replace("my.yaml", str(path))
    words = shlex.split(command)
    strategy = words.index("configs/strategy/fsdp2.yaml")
    del words[strategy - 1 : strategy + 1]
    words[words.index("8")] = "1"
    return words


def test_a_preempted_job_goes_on_in_its_grown_shape(tmp_path: Path, scontrol: Path) -> None:
    """The signal comes after the growth in depth. The command is the same each time, and ends in exit code 0."""
    undisturbed = start("fit", "--config", config(tmp_path / "whole"), log=tmp_path / "whole.log")
    argv = script_of_the_page(config(tmp_path / "run"))
    signals = ("--trainer.callbacks+", "killing.Signal", "--trainer.callbacks.init_args.number", int(signal.SIGUSR1))
    preempted = start(*argv, *signals, log=tmp_path / "first.log", before=InJob(scontrol))
    assert 0 not in preempted.wait(), preempted.output
    assert (tmp_path / "told").read_text() == "requeue 4711\n"
    assert "job 4711 is in the queue again" in preempted.output and "Traceback" not in preempted.output
    assert {path.name for path in tmp_path.rglob("*hpc*")} == set()
    for exists in (False, True):  # the second time there is nothing left to do
        assert (tmp_path / "run" / LAST).exists() == exists
        again = start(*argv, log=tmp_path / "again.log", before=InJob(scontrol))
        assert again.wait() == [0], again.output
    assert undisturbed.wait() == [0], undisturbed.output
    assert_same_training_state(tmp_path / "whole" / LAST, tmp_path / "run" / LAST)


@pytest.mark.parametrize(
    ("changes", "told", "said"),
    [
        ({"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}, "requeue 12_3\n", "job 12_3 is in the queue again"),
        ({"PATH": "/nowhere"}, None, "job 4711 could not be put into the queue again"),
    ],
)
def test_what_is_asked_of_slurm(tmp_path, scontrol, monkeypatch, capsys, changes, told, said) -> None:
    from lit_recycle.callbacks.interrupt import requeue

    for name, value in {**JOB, "PATH": str(scontrol), **changes}.items():
        monkeypatch.setenv(name, value)
    requeue()
    assert said in "".join(capsys.readouterr())
    assert told is None or (tmp_path / "told").read_text() == told


def with_torchrun(root: Path, *options: object, restarts: int, seconds: float) -> subprocess.CompletedProcess[str]:
    """A run on two processes that torchrun starts, and starts again."""
    argv = [Path(sys.executable).with_name("torchrun"), "--standalone", "--nproc-per-node", 2]
    argv += ["--max-restarts", restarts, "--no-python", BIN, "fit", "--config", config(root), "--ckpt_path", "last"]
    tests = Path(__file__).parents[1]
    # A store of its own for each attempt: in the shared one processes find the addresses of those that are gone.
    environment = os.environ | {
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}",
    }
    told = [str(word) for word in (*argv, *options)]
    return subprocess.run(told, env=environment, capture_output=True, text=True, timeout=seconds, cwd=root.parent)


def test_torchrun_goes_on_by_itself(tmp_path: Path) -> None:
    """One of two processes is killed after the first growth; all are started again, and go on from the newest."""
    whole = start("fit", "--config", config(tmp_path / "whole"), *TWO, log=tmp_path / "whole.log", world=2)
    kill = ("--trainer.callbacks+", "killing.KillAttempt", "--trainer.callbacks.init_args.at", "step=3")
    argv = (*TWO, *kill, "--trainer.callbacks.init_args.rank", "1")
    run = with_torchrun(tmp_path / "run", *argv, restarts=1, seconds=600)
    assert run.returncode == 0, run.stdout + run.stderr
    assert set(whole.wait()) == {0}, whole.output
    assert_same_training_state(tmp_path / "whole" / LAST, tmp_path / "run" / LAST)
