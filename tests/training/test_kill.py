"""Whatever ends a run, going on from its newest checkpoint ends it bit for bit where it would have ended."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from lightning.pytorch.strategies import StrategyRegistry
from processes import BIN, Command, config, start
from runs import assert_same_training_state

from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.training.strategies import TIMEOUT

LAST = "checkpoints/step=6.ckpt"
DDP = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--data.batch_size", "2")
FSDP2 = ("--trainer.strategy", "fsdp2", "--trainer.devices", "2", "--data.batch_size", "2")
STRATEGIES: dict[str, tuple[str, ...]] = {"alone": (), "ddp": DDP, "fsdp2": FSDP2}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run left alone, under each strategy: its last checkpoint."""
    root = tmp_path_factory.mktemp("undisturbed")
    runs = {name: fit(root / name, *options) for name, options in STRATEGIES.items()}
    for run in runs.values():
        assert set(run.wait()) == {0}, run.output
    return {name: root / name / LAST for name in STRATEGIES}


def fit(root: Path, *options: object) -> Command:
    """Start a run, or go on with one where the options say so."""
    world = 2 if "--trainer.devices" in options else 1
    log = root.with_name(f"{root.name}-{time.monotonic_ns()}.log")
    return start("fit", "--config", config(root), *options, log=log, world=world)


def killed(root: Path, at: str, *options: object, rank: int | None = None) -> Command:
    """A run that is killed at some point, waited for."""
    victim = () if rank is None else ("--trainer.callbacks.init_args.rank", rank)
    run = fit(root, *options, "--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at", at, *victim)
    codes = run.wait(300)
    assert -signal.SIGKILL in codes, run.output
    assert 0 not in codes, run.output
    return run


def go_on(root: Path, *options: object) -> None:
    run = fit(root, *options, "--ckpt_path", "last")
    assert set(run.wait()) == {0}, run.output


@pytest.fixture(scope="module")
def hanging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], Path, float]]:
    """A run of which one process hangs, and a thread waits for it to save its shards: begun first, as it waits long."""
    root = tmp_path_factory.mktemp("hanging") / "run"
    hang = ("--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at", "hang=2")
    options = ("--trainer.strategy.timeout", "0:00:30", *hang, "--trainer.callbacks.init_args.rank", 1)
    options += ("--trainer.callbacks+", "lit_recycle.callbacks.AsyncSave")
    strategy = (*FSDP2[2:], "--trainer.strategy", "lit_recycle.training.strategies.FSDP2Strategy")
    with executable(root, *strategy, *options) as run:
        yield run, root.with_suffix(".log"), time.time()


@pytest.mark.usefixtures("hanging")
def test_killed_again_and_again_a_run_ends_bit_for_bit_the_same(undisturbed: dict[str, Path], tmp_path: Path) -> None:
    points = ["step=1", "anchor=2", "grown=2", "saving=3", "saved=3", "step=4", "grown=4", "saving=5", "end"]
    for number, point in enumerate(points):
        killed(tmp_path / "run", point, "--ckpt_path", "last")
        assert len(list((tmp_path / "run/checkpoints").glob(".*"))) <= 1, f"leftovers of kill {number}"
        for path in (tmp_path / "run/checkpoints").glob("*.ckpt"):
            load_whole_checkpoint(path)
    finished = fit(tmp_path / "run", "--ckpt_path", "last")
    assert finished.wait() == [0] and "it is finished; to train longer, raise it" in finished.output
    assert not list((tmp_path / "run/checkpoints").glob(".*"))
    assert_same_training_state(undisturbed["alone"], tmp_path / "run" / LAST)


@pytest.mark.parametrize(
    ("strategy", "points"),
    [
        ("ddp", [("grown=2", 1), ("saving=3", 0), ("step=5", None)]),
        ("fsdp2", [("grown=2", 0), ("saved=3", 0), ("step=5", 1)]),
    ],
)
def test_killed_processes_of_several(
    undisturbed: dict[str, Path], tmp_path: Path, strategy: str, points: list[tuple[str, int | None]]
) -> None:
    options = STRATEGIES[strategy]
    for point, rank in points:
        before = snapshot(tmp_path / "run/checkpoints")
        run = killed(tmp_path / "run", point, *options, "--ckpt_path", "last", rank=rank)
        assert "Traceback" not in run.output
        assert before.items() <= snapshot(tmp_path / "run/checkpoints").items()
        for path in (tmp_path / "run/checkpoints").glob("*.ckpt"):
            load_whole_checkpoint(path)
        if rank is not None:
            assert any(f"process {rank} of the run's 2 has ended or hangs" in line for line in run.errors), run.output
    go_on(tmp_path / "run", *options)
    assert_same_training_state(undisturbed[strategy], tmp_path / "run" / LAST)


def snapshot(folder: Path) -> dict[str, int]:
    """Files of whole checkpoints, with the times of their last change."""
    files = [f for f in folder.rglob("*") if f.is_file() and not f.relative_to(folder).parts[0].startswith(".")]
    return {str(file): file.stat().st_mtime_ns for file in files}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("strategy", ["alone", "ddp"])
def test_interrupted_a_run_saves_and_says_how_to_go_on(
    undisturbed: dict[str, Path], tmp_path: Path, number: signal.Signals, strategy: str
) -> None:
    options = STRATEGIES[strategy]
    run = fit(
        tmp_path / "run",
        *options,
        "--trainer.callbacks+",
        "killing.Signal",
        "--trainer.callbacks.init_args.number",
        int(number),
    )
    assert 0 not in run.wait(), run.output
    assert run.output.count("interrupted: finishing the step") == 1
    assert (tmp_path / "run/checkpoints/interrupt-step=3.ckpt").exists()
    command = next(line for line in run.output.splitlines() if line.startswith("go on: "))
    assert command.startswith("go on: lit-recycle fit --config") and command.endswith("--ckpt_path last")
    assert "Traceback" not in run.output
    go_on(tmp_path / "run", *options)
    assert_same_training_state(undisturbed[strategy], tmp_path / "run" / LAST)


def small_disk() -> None:
    """Files as large as a checkpoint before the growth, and no larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (250_000, 250_000))


@pytest.mark.parametrize("strategy", ["alone", "fsdp2"])
def test_a_full_disk_leaves_the_previous_checkpoint_whole(
    undisturbed: dict[str, Path], tmp_path: Path, strategy: str
) -> None:
    """The first checkpoint after the growth in depth does not fit; once there is room, the run goes on."""
    options, root = STRATEGIES[strategy], tmp_path / "run"
    log, world = tmp_path / "log", 2 if strategy == "fsdp2" else 1
    run = start("fit", "--config", config(root), *options, log=log, world=world, before=small_disk)
    assert set(run.wait()) == {2}, run.output
    assert "Traceback" not in run.output
    assert "is the disk full? Nothing that was saved before is lost" in run.errors[0]
    saved = {path.name for path in (root / "checkpoints").iterdir()}
    assert saved == {"step=1.ckpt", "step=2.ckpt", "anchor-step=2.ckpt"}
    for name in saved:
        load_whole_checkpoint(root / "checkpoints" / name)
    go_on(root, *options)
    assert_same_training_state(undisturbed[strategy], root / LAST)


@contextmanager
def executable(root: Path, *options: object) -> Iterator[subprocess.Popen[bytes]]:
    """The command as it is installed, in a group of processes of its own, of which none is left in the end."""
    argv = [BIN, "fit", "--config", config(root), "--trainer.max_steps", 100_000, *options]
    tests = Path(__file__).parents[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{tests.parent}{os.pathsep}{tests}"}
    with root.with_suffix(".log").open("w") as log:
        run = subprocess.Popen(list(map(str, argv)), stdout=log, stderr=log, env=environment, start_new_session=True)
    try:
        yield run
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    """Not even one that is busy with something else than waiting for the others."""
    busy = ("--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at", "sleep=2")
    with executable(tmp_path / "run", *DDP, *busy, "--trainer.callbacks.init_args.rank", 1) as run:
        wait_for(lambda: (tmp_path / "run/checkpoints/step=1.ckpt").exists(), 300)
        assert len(members(run.pid)) == 2
        run.kill()
        run.wait()
        wait_for(lambda: not members(run.pid), 60)


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_process_that_hangs_does_not_hold_up_the_others(
    hanging: tuple[subprocess.Popen[bytes], Path, float],
) -> None:
    run, log, begun = hanging
    assert run.wait(240) == 2
    assert log.stat().st_mtime - begun < 240
    wait_for(lambda: not members(run.pid), 60)  # a killed process takes a moment to give back its memory
    errors = [line for line in log.read_text().splitlines() if line.startswith("error")]
    assert len(errors) == 1 and "process 1 of the run's 2 has ended or hangs" in errors[0]


@pytest.mark.parametrize("name", ["ddp", "fsdp", "fsdp2"])
def test_processes_wait_for_each_other_ten_minutes_at_most(name: str) -> None:
    strategy = StrategyRegistry.get(name)
    assert strategy._timeout == TIMEOUT == timedelta(minutes=10)  # Lightning hands it to the process group from there


def members(group: int) -> list[str]:
    """Living processes of a process group, by what Linux says of them."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = file.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it is gone
            continue
        if int(its_group) == group and state != "Z":
            found.append(file.parent.name)
    return found
