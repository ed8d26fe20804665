"""What is to be trained so that all runs have results, nothing twice.

A run is the same as any other of its seed and learning rate until it grows or its rate decays, and two runs that grow
alike stay the same after that. What runs have in common, the *trunk*, is trained once, in segments that end where a run
branches off; each run goes on from a segment's checkpoint. Because a resumed run is bit for bit the undisturbed one,
this changes no result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lit_recycle.experiments.budgets import Fit, key_of, until
from lit_recycle.experiments.definition import Run

END = "end.ckpt"
"""The checkpoint that a finished task leaves, in its folder."""


@dataclass(frozen=True)
class Task:
    """One call of ``lit-recycle fit``: a segment of a trunk, or the rest of a run.

    Args:
        key: Name of its folder: a hash of the configuration.
        fit: The configuration.
        parent: Key of the task from whose end it goes on.
        start: Optimizer steps of the parent.
        run: The run that it ends; None for a trunk.
    """

    key: str
    fit: Fit
    parent: str | None
    start: int
    run: Run | None = None

    @property
    def steps(self) -> int:
        """Optimizer steps at its end."""
        return self.fit["trainer"]["max_steps"]

    @property
    def label(self) -> str:
        """As it is shown."""
        return f"{self.run.experiment}/{self.run.name}" if self.run else f"trunk until step {self.steps} ({self.key})"


def tasks_for(runs: Sequence[Run], work: Path) -> list[Task]:
    """Tasks in an order in which each comes after its parent; runs keep their order.

    Args:
        runs: Runs without results.
        work: Folder of the tasks' folders; trunks that are whole there are gone on from.
    """
    ends: dict[str, set[int]] = {}
    for run in runs:
        for fit, step in run.phases():
            ends.setdefault(key_of(fit), set()).add(step)
    made: dict[str, Task] = {}
    for run in runs:
        parent: Task | None = None
        for fit, last in run.phases():
            begin = parent.steps if parent else 0
            for step in sorted(step for step in ends[key_of(fit)] if begin < step <= last):
                segment = _segment(fit, step, parent)
                parent = made.setdefault(segment.key, segment)
        begin = parent.steps if parent else 0
        made.setdefault(run.key, Task(run.key, run.fit, parent.key if parent else None, begin, run))
    return _without_finished(made.values(), work)


def _segment(fit: Fit, step: int, parent: Task | None) -> Task:
    whole = until(fit, step)
    return Task(key_of(whole), whole, parent.key if parent else None, parent.steps if parent else 0)


def _without_finished(tasks: Iterable[Task], work: Path) -> list[Task]:
    """Leave out trunks that are whole on disk, those that nobody needs, and borders at which nothing branches off."""
    by_key = {task.key: task for task in tasks}
    done = {key for key, task in by_key.items() if task.run is None and (work / key / END).exists()}
    children: dict[str, set[str]] = {}
    for run in [task for task in by_key.values() if task.run]:
        child = run
        while child.parent and child.parent not in done:
            children.setdefault(child.parent, set()).add(child.key)
            child = by_key[child.parent]
    shared = {key for key, others in children.items() if len(others) > 1}
    return [
        _from_shared(task, by_key, shared | done)
        for key, task in by_key.items()
        if key not in done and (task.run or key in shared)
    ]


def _from_shared(task: Task, by_key: Mapping[str, Task], kept: set[str]) -> Task:
    """The task, to go on from its nearest ancestor that is kept."""
    parent = by_key[task.parent] if task.parent else None
    while parent and parent.key not in kept:
        parent = by_key[parent.parent] if parent.parent else None
    return replace(task, parent=parent.key if parent else None, start=parent.steps if parent else 0)
