"""One run per folder, and no lock that outlives its owner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import config, start

from lit_recycle.training.run_lock import NAME, STALE, run_lock

HOLD = """
import sys, time
from pathlib import Path
from lit_recycle.training.run_lock import run_lock
with run_lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_run_is_refused_at_once_and_told_whose_the_folder_is(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "run"], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        run = start("fit", "--config", config(tmp_path / "run"), log=tmp_path / "log")
        assert run.wait() == [2] and len(run.errors) == 1
        assert f"{tmp_path / 'run'} belongs to a run that goes on: process {holder.pid} on " in run.errors[0]
        assert "another trainer.default_root_dir" in run.errors[0]
        assert [path.name for path in (tmp_path / "run").iterdir()] == [NAME]
        os.kill(holder.pid, signal.SIGKILL)
    with run_lock(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / NAME).read_text())["process"] == os.getpid()
    assert not (tmp_path / "run" / NAME).exists()


@pytest.mark.parametrize("age", [0.0, STALE + 1])
def test_on_another_machine_the_owner_lives_as_long_as_it_shows(tmp_path: Path, age: float) -> None:
    lock = tmp_path / NAME
    lock.write_text(json.dumps({"host": "elsewhere", "process": 7, "since": "yesterday"}))
    os.utime(lock, (time.time() - age,) * 2)
    if age:
        with run_lock(tmp_path):
            pass
        return
    with pytest.raises(ValueError, match="process 7 on elsewhere, since yesterday"), run_lock(tmp_path):
        pass


def test_a_lock_full_of_nonsense_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"\xff[")
    with run_lock(tmp_path):
        pass


def test_of_a_run_that_was_refused_no_folder_is_left(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="refused"), run_lock(tmp_path / "runs/mine"):
        raise ValueError("refused")
    assert not [*tmp_path.iterdir()]
    with run_lock(tmp_path / "runs/mine"):
        (tmp_path / "runs/mine/config.yaml").touch()
    assert [*tmp_path.rglob("*.yaml")]
