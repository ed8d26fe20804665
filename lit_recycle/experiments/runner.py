"""Runs tasks side by side, each in a process of its own with its own threads, until all runs have results."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from lit_recycle.data.tokenizer import load_tokenizer
from lit_recycle.experiments import corpus
from lit_recycle.experiments.definition import Experiment, Run
from lit_recycle.experiments.estimate import Speeds, flops_of
from lit_recycle.experiments.launch import RESULT, Settings, Worker
from lit_recycle.experiments.results import Results
from lit_recycle.experiments.tasks import END, Task, tasks_for


class Runner:
    """Does what is to be done for experiments, resumable at any moment: what is finished is not repeated."""

    def __init__(self, experiments: Sequence[Experiment], settings: Settings) -> None:
        self.experiments, self.settings = experiments, settings
        self.results = Results(settings.results)
        self.speeds = Speeds(settings.work / "speeds.json", settings.threads)
        self.failed: dict[str, str] = {}
        self.workers: list[Worker] = []
        self.console = Console()
        self._stopping = False

    # --- what is to be done ------------------------------------------------------------------------------------------

    def open_runs(self) -> list[Run]:
        """Runs without results, each configuration once."""
        runs = {run.key: run for e in self.experiments for run in self.results.runs(e) if not self.results.get(run)}
        return [run for run in runs.values() if run.key not in self.failed]

    def open_tasks(self) -> list[Task]:
        tasks = tasks_for(self.open_runs(), self.settings.work)
        lost = set(self.failed)
        for task in tasks:
            if task.parent in lost or not lost.isdisjoint(task.needs):
                lost.add(task.key)
        return [task for task in tasks if task.key not in lost]

    def _ready(self) -> Task | None:
        busy = {worker.task.key for worker in self.workers}
        for task in self.open_tasks():
            needs = [task.parent] if task.parent else task.needs
            if task.key not in busy and all((self._folder(key) / END).exists() for key in needs):
                return task
        return None

    # --- doing it ----------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Work until nothing is open. Returns 0, 1 where a task has failed, 130 after an interruption."""
        with alone(self.settings.work), self._signals(), self._progress() as bars:
            self._prepare_corpus()
            whole = bars.add_task("all runs", total=1.0, note="")
            self._count(bars, whole)
            while not self._stopping:
                if self._collect(bars):
                    self._count(bars, whole)
                while len(self.workers) < self.settings.workers and (task := self._ready()):
                    self._start(task, bars)
                for running in self.workers:
                    bars.update(running.bar, completed=running.step() - running.task.start)
                if not self.workers:
                    break
                time.sleep(0.3)
            self._finish()
        for key, why in self.failed.items():
            self.console.print(f"failed: {self._folder(key)}: {why}", highlight=False)
        return 130 if self._stopping else int(bool(self.failed))

    def _prepare_corpus(self) -> None:
        data = self.experiments[0].base["data"]
        self.about = corpus.prepare(
            self.settings.corpus, load_tokenizer(data["tokenizer"]), data["val_fraction"], self.settings.text
        )
        self.results.add_text(self.about)

    def _start(self, task: Task, bars: Progress) -> None:
        bar = bars.add_task(task.label, total=task.steps - task.start, note="")
        self.workers.append(Worker.start(task, self.settings, beside=len(self.workers), bar=bar))

    def _collect(self, bars: Progress) -> bool:
        """Take up what has ended; whether anything has."""
        ended = [w for w in self.workers if w.process.poll() is not None]
        for done in ended:
            self.workers.remove(done)
            bars.remove_task(done.bar)
            folder, seconds = done.folder, time.monotonic() - done.started
            if why := done.why_it_failed():
                self.failed[done.task.key] = why
                continue
            self.speeds.add(done.task, done.first_step, seconds)
            if done.task.run:
                measured = json.loads((folder / RESULT).read_text(encoding="utf-8"))
                self.results.add(done.task.run, measured | {"corpus": self.about.digest})
                shutil.rmtree(folder)  # a trunk stays: other runs may branch off it
            else:
                shutil.rmtree(folder / "checkpoints", ignore_errors=True)
            self._tell(done.task, seconds)
        return bool(ended)

    def _tell(self, task: Task, seconds: float) -> None:
        clock = time.strftime("%H:%M:%S")
        came_to = ""
        if task.run and (result := self.results.get(task.run)):
            came_to = f", loss {result['metrics']['loss']:.4f}, accuracy {result['metrics']['accuracy']:.3f}"
        left = self.time_left()
        self.console.print(
            f"{clock}  {task.label}: {seconds:.0f} s{came_to}; {_about(left)} left", highlight=False, soft_wrap=True
        )

    def time_left(self) -> float:
        """Seconds until all runs that are known have results."""
        return sum(self.speeds.seconds(task) for task in self.open_tasks()) / self.settings.workers

    # --- showing it --------------------------------------------------------------------------------------------------

    def _progress(self) -> Progress:
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
        return Progress(*columns, TimeRemainingColumn(), TextColumn("{task.fields[note]}"), console=self.console)

    def _count(self, bars: Progress, whole: TaskID) -> None:
        known = [run for e in self.experiments for run in self.results.runs(e)]
        done = sum(self.results.get(run) is not None for run in known)
        bars.update(whole, completed=done / max(len(known), 1), note=f"{done} of {len(known)} runs")

    # --- the end -----------------------------------------------------------------------------------------------------

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def stop(number: int, frame: FrameType | None) -> None:
            self._stopping = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _finish(self) -> None:
        """Let what still runs save itself."""
        for running in self.workers:
            running.process.send_signal(signal.SIGTERM)
        for running in self.workers:
            running.process.wait()

    def _folder(self, key: str) -> Path:
        return self.settings.work / key

    def plan(self) -> list[dict[str, Any]]:
        """A row per experiment: runs, those with results, FLOPs and seconds that are left. Shared work counts once."""
        rows, counted = [], set()
        for experiment in self.experiments:
            known = self.results.runs(experiment)
            open_ones = [run for run in known if not self.results.get(run)]
            tasks = [t for t in tasks_for(open_ones, self.settings.work) if t.key not in counted]
            counted |= {task.key for task in tasks}
            waiting = 0
            if experiment.best_of:
                waiting = len(experiment.seeds_after_sweep()) * len(experiment.variants)
                waiting -= sum(run.seed not in experiment.best_of.seeds for run in known)
            rows.append(
                {
                    "experiment": experiment.name,
                    "runs": len(known) + waiting,
                    "done": len(known) - len(open_ones),
                    "flops": sum(map(flops_of, tasks)),
                    "seconds": sum(map(self.speeds.seconds, tasks)) / self.settings.workers,
                    "waiting": waiting,
                }
            )
        return rows


@contextmanager
def alone(work: Path) -> Iterator[None]:
    """Refuse a second runner on the same folder: both would train the same."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ValueError(f"experiments are already running in {work}: wait for them, or stop them") from error
        yield


def _about(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds / 10) * 10))
