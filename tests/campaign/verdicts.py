"""What was tried in a campaign, whether it held, and the logs of what did not."""

from __future__ import annotations

import multiprocessing as mp
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple


class Trial(NamedTuple):
    """One thing that is tried.

    Args:
        kind: Row of the table.
        name: Says what is tried, in a file name's characters.
        run: Tries it in an empty folder; returns the number of tries; raises ``AssertionError`` if it did not hold.
    """

    kind: str
    name: str
    run: Callable[[Path], int]


class Verdict(NamedTuple):
    """Of a trial: how many tries it was, and what did not hold; None where no time was left for it."""

    tries: int
    failure: str | None


class Campaign:
    """Runs trials, some at a time, and keeps count.

    Args:
        work: Folder for the trials; each has one of its own, removed when it held.
        failures: Folder to which those of what did not hold are moved.
        seconds: No trial begins later than this after the start.
        workers: How many are tried at a time, each in a fork of this process.
    """

    def __init__(self, work: Path, failures: Path, seconds: float, workers: int) -> None:
        self.work, self.failures, self.end = work, failures, time.monotonic() + seconds
        self.workers = workers
        self.tried: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.left_out = 0

    def run(self, trials: Iterable[Trial]) -> None:
        global _campaign, _trials
        _campaign, _trials = self, list(trials)  # which forks have
        with ProcessPoolExecutor(self.workers, mp_context=mp.get_context("fork")) as pool:
            for trial, verdict in zip(_trials, pool.map(_try, range(len(_trials))), strict=True):
                self._count(trial, verdict)

    def attempt(self, trial: Trial) -> Verdict | None:
        """Try one thing, in this process."""
        if time.monotonic() > self.end:
            return None
        folder = self.work / f"{trial.kind}-{trial.name}".replace("/", "_").replace(" ", "-")
        folder.mkdir(parents=True)
        try:
            verdict = Verdict(trial.run(folder), None)
        except Exception as error:
            verdict = Verdict(1, f"{type(error).__name__}: {error}")
        if verdict.failure is None:
            shutil.rmtree(folder)
            return verdict
        (folder / "failure.txt").write_text(verdict.failure)
        kept = self.failures / folder.name
        shutil.rmtree(kept, ignore_errors=True)
        shutil.move(folder, kept)
        print(f"did not hold: {trial.kind}, {trial.name}: {verdict.failure.splitlines()[0][:200]} ({kept})", flush=True)
        return verdict

    def _count(self, trial: Trial, verdict: Verdict | None) -> None:
        if verdict is None:
            self.left_out += 1
            return
        self.tried[trial.kind] = self.tried.get(trial.kind, 0) + verdict.tries
        self.held[trial.kind] = self.held.get(trial.kind, 0) + (verdict.tries if verdict.failure is None else 0)

    def table(self) -> str:
        """Markdown: tried and held by kind."""
        lines = ["| what | tried | held |", "| --- | --- | --- |"]
        lines += [f"| {kind} | {count} | {self.held[kind]} |" for kind, count in self.tried.items()]
        return "\n".join([*lines, f"| all | {sum(self.tried.values())} | {sum(self.held.values())} |"])

    @property
    def failed(self) -> int:
        return sum(self.tried.values()) - sum(self.held.values())


_campaign: Campaign
_trials: Sequence[Trial]


def _try(number: int) -> Verdict | None:
    return _campaign.attempt(_trials[number])
