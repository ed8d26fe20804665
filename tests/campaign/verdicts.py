"""What was tried in a campaign, whether it held, and the logs of what did not."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
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


class Campaign:
    """Runs trials one after the other and keeps count.

    Args:
        work: Folder for the trials; each has one of its own, removed when it held.
        failures: Folder to which those of what did not hold are moved.
        seconds: No trial begins later than this after the start.
    """

    def __init__(self, work: Path, failures: Path, seconds: float) -> None:
        self.work, self.failures, self.end = work, failures, time.monotonic() + seconds
        self.tried: dict[str, int] = {}
        self.held: dict[str, int] = {}

    def run(self, trials: Iterable[Trial]) -> None:
        for trial in trials:
            if time.monotonic() > self.end:
                print(f"no time left for {trial.kind}, {trial.name}", flush=True)
                return
            folder = self.work / f"{trial.kind}-{trial.name}".replace("/", "_").replace(" ", "-")
            folder.mkdir(parents=True)
            try:
                tries, told = trial.run(folder), ""
            except Exception as error:
                tries, told = 1, f"{type(error).__name__}: {error}"
            self.tried[trial.kind] = self.tried.get(trial.kind, 0) + tries
            if not told:
                self.held[trial.kind] = self.held.get(trial.kind, 0) + tries
                shutil.rmtree(folder)
                continue
            (folder / "failure.txt").write_text(told)
            kept = self.failures / folder.name
            shutil.rmtree(kept, ignore_errors=True)
            shutil.move(folder, kept)
            print(f"did not hold: {trial.kind}, {trial.name}: {told.splitlines()[0][:200]} ({kept})", flush=True)

    def table(self) -> str:
        """Markdown: tried and held by kind."""
        lines = ["| what | tried | held |", "| --- | --- | --- |"]
        lines += [f"| {kind} | {count} | {self.held.get(kind, 0)} |" for kind, count in self.tried.items()]
        return "\n".join([*lines, f"| all | {sum(self.tried.values())} | {sum(self.held.values())} |"])

    @property
    def failed(self) -> int:
        return sum(self.tried.values()) - sum(self.held.values())
