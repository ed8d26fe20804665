"""Runs that are killed again and again, at random places, and end bit for bit where undisturbed ones end."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from campaign.verdicts import Trial
from processes import Command, config, start
from runs import assert_same_training_state

LAST = "checkpoints/step=6.ckpt"
LAUNCHER_WAITS = 20.0
"""Seconds after which a launcher ends those that have not ended by themselves."""
MOMENTS = ("step", "grown", "anchor", "saving", "saved", "clock", "clock")


class Setting(NamedTuple):
    options: tuple[str, ...] = ()
    world: int = 1
    nodes: bool = False


def _several(*strategy: str, nodes: bool = False) -> Setting:
    places = ("--trainer.num_nodes", "2", "--trainer.devices", "1") if nodes else ("--trainer.devices", "2")
    return Setting(("--trainer.strategy", *strategy, *places, "--data.batch_size", "2"), 2, nodes)


# Lightning refuses the short name on a CPU; a class is read as one where an option of it follows.
FSDP = ("lit_recycle.training.strategies.FSDPStrategy", "--trainer.strategy.checkpoints", "sharded")
FULL = ("lit_recycle.training.strategies.FSDP2Strategy", "--trainer.strategy.checkpoints", "full")
LATER = ("--trainer.callbacks+", "lit_recycle.callbacks.AsyncSave")
SETTINGS = {
    "one device": Setting(),
    "DDP": _several("ddp"),
    "FSDP": _several(*FSDP),
    "FSDP2": _several("fsdp2"),
    "FSDP2, one file": _several(*FULL),
    "one device, AsyncSave": Setting(LATER),
    "FSDP2, AsyncSave": Setting((*_several("fsdp2").options, *LATER), 2),
    "two nodes, DDP": _several("ddp", nodes=True),
    "two nodes, FSDP2": _several("fsdp2", nodes=True),
}


class Killer:
    """One run in a setting, killed until it ends."""

    def __init__(self, name: str, root: Path) -> None:
        self.setting, self.root = SETTINGS[name], root
        self.number = 0

    def fit(self, *options: object) -> Command:
        self.number += 1
        log = self.root.with_name(f"{self.number:02}.log")
        argv = ("fit", "--config", config(self.root), *self.setting.options, *options)
        return start(*argv, log=log, world=self.setting.world, nodes=self.setting.nodes)

    def finish(self) -> None:
        run = self.fit("--ckpt_path", "last")
        codes = run.wait(120)
        assert set(codes) == {0}, f"{codes}\n{run.output[-3000:]}"

    def kill(self, moment: str, step: int, rank: int | None, seconds: float) -> None:
        if moment == "clock":
            self._kill_by_the_clock(rank, seconds)
            return
        victim = () if rank is None else ("--trainer.callbacks.init_args.rank", rank)
        point = ("--trainer.callbacks+", "killing.Kill", "--trainer.callbacks.init_args.at", f"{moment}={step}")
        run = self.fit("--ckpt_path", "last", *point, *victim)
        codes = run.wait(120)
        finished = all(code == 0 for code in codes)  # the point was passed already
        assert finished or -signal.SIGKILL in codes, f"{codes}\n{run.output[-3000:]}"
        assert "Traceback" not in run.output, run.output[-3000:]

    def _kill_by_the_clock(self, rank: int | None, seconds: float) -> None:
        run = self.fit("--ckpt_path", "last")
        time.sleep(seconds)
        for number, process in enumerate(run.processes):
            if rank in (None, number):
                process.kill()
        # A launcher, for which this stands, ends who waits for a process that was killed before they were connected.
        end = time.monotonic() + LAUNCHER_WAITS
        for process in run.processes:
            process.join(max(end - time.monotonic(), 0.1))
            process.kill()
        run.wait(120)
        assert "Traceback" not in run.output, run.output[-3000:]


def trials(seed: int, count: int, undisturbed: Path) -> Iterator[Trial]:
    """About ``count`` kills, spread over the settings, five to a run."""
    draw, per_run = random.Random(seed), 5
    for number in range(-(-count // per_run)):
        name = list(SETTINGS)[number % len(SETTINGS)]
        world = SETTINGS[name].world
        points = []
        for _ in range(per_run):
            moment, step = draw.choice(MOMENTS), draw.randint(1, 6)
            step = {"grown": draw.choice((2, 4)), "anchor": draw.choice((2, 4))}.get(moment, step)
            # Only the first process writes one file, and only it has something halfway on disk.
            rank = 0 if moment in ("saving", "saved", "anchor") else draw.choice((None, *range(world)))
            points.append((moment, step, rank if world > 1 else None, draw.uniform(0.1, 6.0)))

        def run(folder: Path, name: str = name, points: list[tuple[str, int, int | None, float]] = points) -> int:
            killer = Killer(name, folder / "run")
            for moment, step, rank, seconds in points:
                killer.kill(moment, step, rank, seconds)
            killer.finish()
            assert_same_training_state(undisturbed / name.replace(" ", "-") / "run" / LAST, folder / "run" / LAST)
            hidden = list((folder / "run/checkpoints").glob(".*"))
            assert not hidden, f"left behind: {hidden}"
            return len(points)

        yield Trial(f"kills, {name}", str(number), run)


def leave_alone(root: Path) -> None:
    """The undisturbed run of every setting."""
    for name in SETTINGS:
        folder = root / name.replace(" ", "-")
        folder.mkdir(parents=True)
        Killer(name, folder / "run").finish()
