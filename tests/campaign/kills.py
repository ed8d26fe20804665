"""Runs that are killed again and again, at random places, and end bit for bit where undisturbed ones end."""

from __future__ import annotations

import fcntl
import random
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from campaign.verdicts import Trial
from processes import Command, config, start
from runs import assert_same_training_state
from training.test_preemption import InJob, fake_scontrol, with_torchrun

STEPS = 6
LAST = f"checkpoints/step={STEPS}.ckpt"
LAUNCHER_WAITS = 20.0
"""Seconds after which a launcher ends those that have not ended by themselves."""
LIMIT = 900.0
"""Seconds after which a run counts as one that hangs: twenty times what it takes on a quiet machine."""
PER_RUN = 5
MOMENTS = ("step", "grown", "anchor", "saving", "saved", "clock", "clock")


class Setting(NamedTuple):
    """How a run is started.

    Args:
        options: Of the command line.
        world: Number of processes.
        nodes: Each is on a node of its own.
        like: The setting whose undisturbed run it must end like; its own when not given.
    """

    options: tuple[str, ...] = ()
    world: int = 1
    nodes: bool = False
    like: str | None = None


def _several(*strategy: str, nodes: bool = False, like: str | None = None) -> Setting:
    places = ("--trainer.num_nodes", "2", "--trainer.devices", "1") if nodes else ("--trainer.devices", "2")
    return Setting(("--trainer.strategy", *strategy, *places, "--data.batch_size", "2"), 2, nodes, like)


# Lightning refuses the short name on a CPU; a class is read as one where an option of it follows.
FSDP = ("lit_recycle.training.strategies.FSDPStrategy", "--trainer.strategy.checkpoints", "sharded")
FULL = ("lit_recycle.training.strategies.FSDP2Strategy", "--trainer.strategy.checkpoints", "full")
LATER = ("--trainer.callbacks+", "lit_recycle.callbacks.AsyncSave")
SLURM = "one device under SLURM"
TORCHRUN = "torchrun --max-restarts, FSDP2"
SETTINGS = {
    "one device": Setting(),
    "DDP": _several("ddp"),
    "FSDP": _several(*FSDP),
    "FSDP2": _several("fsdp2"),
    "FSDP2, one file": _several(*FULL),
    "one device, AsyncSave": Setting(LATER, like="one device"),
    "FSDP2, AsyncSave": Setting((*_several("fsdp2").options, *LATER), 2, like="FSDP2"),
    "two nodes, DDP": _several("ddp", nodes=True, like="DDP"),
    "two nodes, FSDP2": _several("fsdp2", nodes=True, like="FSDP2"),
    SLURM: Setting(like="one device"),
    TORCHRUN: _several("fsdp2", like="FSDP2"),
}


class Run:
    """One run in a setting, started again until it ends."""

    def __init__(self, name: str, root: Path, before: Callable[[], None] | None = None) -> None:
        self.setting, self.root, self.before = SETTINGS[name], root, before
        self.number = 0

    def fit(self, *options: object) -> Command:
        self.number += 1
        log = self.root.with_name(f"{self.number:02}.log")
        argv = ("fit", "--config", config(self.root), "--ckpt_path", "last", *self.setting.options, *options)
        world, nodes = self.setting.world, self.setting.nodes
        return start(*argv, log=log, world=world, nodes=nodes, before=self.before)

    def finish(self) -> None:
        run = self.fit()
        codes = run.wait(LIMIT)
        assert set(codes) == {0}, f"{codes}\n{run.output[-3000:]}"

    def kill(self, moment: str, step: int, rank: int | None, seconds: float) -> None:
        if moment == "clock":
            self._kill_by_the_clock(rank, seconds)
            return
        run = self.fit(*_at(moment, step, rank))
        codes = run.wait(LIMIT)
        finished = all(code == 0 for code in codes)  # the point was passed already
        assert finished or -signal.SIGKILL in codes, f"{codes}\n{run.output[-3000:]}"
        assert "Traceback" not in run.output, run.output[-3000:]

    def _kill_by_the_clock(self, rank: int | None, seconds: float) -> None:
        run = self.fit()
        time.sleep(seconds)
        for number, process in enumerate(run.processes):
            if rank in (None, number):
                process.kill()
        # A launcher, for which this stands, ends who waits for a process that was killed before they were connected.
        end = time.monotonic() + LAUNCHER_WAITS
        for process in run.processes:
            process.join(max(end - time.monotonic(), 0.1))
            process.kill()
        run.wait(LIMIT)
        assert "Traceback" not in run.output, run.output[-3000:]

    def preempt(self, step: int) -> None:
        """SLURM's signal, after which the job is in the queue again."""
        number = ("--trainer.callbacks.init_args.number", int(signal.SIGUSR1))
        run = self.fit("--trainer.callbacks+", "killing.Signal", *number, "--trainer.callbacks.init_args.step", step)
        codes = run.wait(LIMIT)
        assert codes != [0] and "is in the queue again" in run.output, f"{codes}\n{run.output[-3000:]}"
        assert "Traceback" not in run.output, run.output[-3000:]


def _at(moment: str, step: int, rank: int | None, kill: str = "killing.Kill") -> tuple[object, ...]:
    """Options with which a run kills itself."""
    victim = () if rank is None else ("--trainer.callbacks.init_args.rank", rank)
    return ("--trainer.callbacks+", kill, "--trainer.callbacks.init_args.at", f"{moment}={step}", *victim)


def trials(seed: int, count: int, undisturbed: Path) -> Iterator[Trial]:
    """About ``count`` kills, spread over the settings, five to a run; two to one of torchrun's."""
    draw, number = random.Random(seed), 0
    while count > 0:
        name = list(SETTINGS)[number % len(SETTINGS)]
        tried = {SLURM: _preempted, TORCHRUN: _restarted}.get(name, _killed)
        yield Trial(f"kills, {name}", str(number), partial(tried, name, draw.random(), undisturbed))
        count -= 2 if name == TORCHRUN else PER_RUN
        number += 1


def _killed(name: str, seed: float, undisturbed: Path, folder: Path) -> int:
    draw, run, world = random.Random(seed), Run(name, folder / "run"), SETTINGS[name].world
    for _ in range(PER_RUN):
        run.kill(*_point(draw, world), draw.uniform(0.1, 6.0))
    run.finish()
    _ended_like(name, folder, undisturbed)
    return PER_RUN


def _point(draw: random.Random, world: int) -> tuple[str, int, int | None]:
    """Moment, step and process of a kill."""
    moment, step = draw.choice(MOMENTS), draw.randint(1, STEPS)
    step = {"grown": draw.choice((2, 4)), "anchor": draw.choice((2, 4))}.get(moment, step)
    # Only the first process writes one file, and only it has something halfway on disk.
    rank = 0 if moment in ("saving", "saved", "anchor") else draw.choice((None, *range(world)))
    return moment, step, rank if world > 1 else None


def _preempted(name: str, seed: float, undisturbed: Path, folder: Path) -> int:
    draw, run = random.Random(seed), Run(name, folder / "run", before=InJob(fake_scontrol(folder)))
    steps = sorted(draw.sample(range(STEPS - 1), PER_RUN))
    for step in steps:
        run.preempt(step)
    run.finish()
    requeued = (folder / "told").read_text().splitlines()
    assert requeued == ["requeue 4711"] * PER_RUN, f"not put into the queue again each time: {requeued}"
    _ended_like(name, folder, undisturbed)
    return PER_RUN


def _restarted(name: str, seed: float, undisturbed: Path, folder: Path) -> int:
    """Two processes under torchrun itself; one is killed, and in the second attempt one again."""
    draw = random.Random(seed)
    steps, kills = sorted(draw.sample(range(1, STEPS), 2)), []
    for attempt, step in enumerate(steps):
        kills += [*_at("step", step, draw.randrange(2), "killing.KillAttempt")]
        kills += ["--trainer.callbacks.init_args.attempt", attempt]
    run = with_torchrun(folder / "run", *SETTINGS[name].options, *kills, restarts=2, seconds=LIMIT)
    (folder / "log").write_text(run.stdout + run.stderr)
    assert run.returncode == 0, f"exit code {run.returncode}"
    _ended_like(name, folder, undisturbed)
    return len(steps)


def _ended_like(name: str, folder: Path, undisturbed: Path) -> None:
    assert_same_training_state(leave_alone(SETTINGS[name].like or name, undisturbed) / LAST, folder / "run" / LAST)
    hidden = list((folder / "run/checkpoints").glob(".*"))
    assert not hidden, f"left behind: {hidden}"


def leave_alone(name: str, root: Path) -> Path:
    """The undisturbed run of a setting; it is made when it is first asked for."""
    folder = root / name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another trial may be making it
        if not (folder / "run" / LAST).exists():
            Run(name, folder / "run").finish()
    return folder / "run"
