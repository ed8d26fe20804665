"""What is to be trained so that all runs have results, nothing twice.

A run is the same as any other of its seed and learning rate until it grows or its rate decays, and two runs that grow
alike stay the same after that. What runs have in common, the *trunk*, is trained once, in segments that end where a run
branches off; each run goes on from a segment's checkpoint. Because a resumed run is bit for bit the undisturbed one,
this changes no result.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from lit_recycle.experiments.budgets import Fit, beginnings, key_of, phases, until
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
    def needs(self) -> list[str]:
        """Keys of the tasks from whose weights it begins anew; none where it goes on from a parent."""
        return [] if self.parent else [_key_at(fit, step) for fit, step in beginnings(self.fit)]

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
        for fit, step in chain(run.phases(), *map(_path, beginnings(run.fit))):
            ends.setdefault(key_of(fit), set()).add(step)
    made: dict[str, Task] = {}
    for run in runs:
        for path in map(_path, beginnings(run.fit)):
            _segments(path, ends, made)
        parent = _segments(run.phases(), ends, made)
        begin = parent.steps if parent else 0
        made.setdefault(run.key, Task(run.key, run.fit, parent.key if parent else None, begin, run))
    return _without_finished(made.values(), work)


def _path(beginning: tuple[Fit, int]) -> list[tuple[Fit, int]]:
    """The phases of a run that another one begins from."""
    fit, step = beginning
    decays_after = fit["model"]["lr_scheduler"]["init_args"]["decay_steps"]
    return [*(phases(fit, [step - decays_after]) if decays_after else []), beginning]


def _segments(path: Sequence[tuple[Fit, int]], ends: Mapping[str, set[int]], made: dict[str, Task]) -> Task | None:
    """Add the tasks along some phases, cut at all steps where a run ends or branches off; the last of them."""
    parent: Task | None = None
    for fit, last in path:
        begin = parent.steps if parent else 0
        for step in sorted(step for step in ends[key_of(fit)] if begin < step <= last):
            key = _key_at(fit, step)
            segment = Task(key, until(fit, step), parent.key if parent else None, parent.steps if parent else 0)
            parent = made.setdefault(key, segment)
    return parent


def _key_at(fit: Fit, step: int) -> str:
    return key_of(until(fit, step))


def _without_finished(tasks: Iterable[Task], work: Path) -> list[Task]:
    """Leave out trunks that are whole on disk, those that nobody needs, and borders at which nothing branches off."""
    by_key = {task.key: task for task in tasks}
    done = {key for key, task in by_key.items() if task.run is None and (work / key / END).exists()}
    needed = {key for task in by_key.values() if task.key not in done for key in task.needs}
    children: dict[str, set[str]] = {}
    for leaf in [task for task in by_key.values() if task.run or task.key in needed]:
        child = leaf
        while child.parent and child.parent not in done:
            children.setdefault(child.parent, set()).add(child.key)
            child = by_key[child.parent]
    shared = needed | {key for key, others in children.items() if len(others) > 1}
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
