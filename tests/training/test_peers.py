"""How long processes wait for each other."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from processes import config, start
from runs import on_processes

from lit_recycle.callbacks.waiting import WaitingTime
from lit_recycle.training import peers


def _wait_in_vain(out: Path) -> None:
    dist.init_process_group("gloo", rank=int(os.environ["RANK"]), world_size=2)
    group = dist.new_group([0, 1])
    peers.set_timeout(timedelta(seconds=1))
    peers.ANSWER = 1.0
    if dist.get_rank() == 0:
        for number, used in enumerate((None, group)):  # also those that a strategy has made
            start_of_wait = time.monotonic()
            with pytest.raises(RuntimeError) as caught:
                dist.all_reduce(torch.ones(1), group=used)
            assert time.monotonic() - start_of_wait < 20 and peers.is_lost_peer(caught.value)
            (out / str(number)).write_text(str(peers.named(caught.value)))
        os._exit(0)
    while not (out / "1").exists():  # it lives, and does not answer
        time.sleep(0.1)
    os._exit(0)


def test_all_groups_wait_as_long_as_is_said_and_the_missing_process_is_named(tmp_path: Path) -> None:
    on_processes(2, _wait_in_vain, tmp_path)
    for number in range(2):
        told = (tmp_path / str(number)).read_text()
        assert told.startswith("process 1 of the run's 2 has ended or hangs: ") and "--ckpt_path last" in told


def test_minutes_are_checked() -> None:
    for minutes in (0, -1, float("nan")):
        with pytest.raises(ValueError, match=r"WaitingTime\.minutes must be positive"):
            WaitingTime(minutes)


def test_steps_wait_shorter_than_what_one_process_does_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With five seconds to wait, a first process that saves for ten is waited for; one that sleeps in a step is not."""
    options = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--data.batch_size", "2")
    options += ("--waiting_minutes", "0.08")
    slow = ("--trainer.callbacks+", "killing.SlowSave", "--trainer.callbacks.init_args.seconds", "10")
    sleep = ("--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at", "sleep=3")
    sleep += ("--trainer.callbacks.init_args.rank", "1")
    file = config(tmp_path / "slow")
    waited_for = start("fit", "--config", file, *options, *slow, log=tmp_path / "slow.log", world=2)
    file = config(tmp_path / "late", trainer__callbacks=[])
    given_up = start("fit", "--config", file, *options, *sleep, log=tmp_path / "late.log", world=2)
    given_up.processes[0].join(300)
    for process in given_up.processes:
        process.kill()
    assert given_up.processes[0].exitcode == 2, given_up.output
    assert len(given_up.errors) == 1 and "process 1 of the run's 2 has ended or hangs" in given_up.errors[0]
    assert waited_for.wait() == [0, 0], waited_for.output


def test_a_start_to_which_not_all_come_is_told_in_a_sentence() -> None:
    """As torch's store tells of it, before there is a process group."""
    error = dist.DistStoreError("Timed out after 7 seconds waiting for clients. 1/2 clients joined.")
    assert peers.is_lost_peer(error) and not dist.is_initialized()
    told = str(peers.named(error))
    assert "have not come together in time" in told and "trainer.strategy.timeout" in told and "1/2 clients" in told
