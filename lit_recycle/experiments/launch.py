"""Process of a task: what it is told, where it writes, how far it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import yaml
from rich.progress import TaskID

from lit_recycle.experiments import corpus
from lit_recycle.experiments.budgets import Fit, merge, sunk_in
from lit_recycle.experiments.tasks import END, Task

TASK, FIT, RESULT, LOG, STEP, MERGED = "task.json", "fit.yaml", "result.json", "log.txt", "step", "merged.ckpt"
"""Files of a task's folder: what it is, the configuration that is trained, what came out, what the process said, the
step at which it is, and the weights that it begins from where these are a mean of others'.
"""


@dataclass(frozen=True)
class Settings:
    """How experiments are run; nothing here changes a result by more than the last digits.

    Args:
        work: Folder for checkpoints, the corpus and logs. Removing it loses time, not results.
        results: Folder of results.
        workers: Processes side by side.
        threads: Threads of each.
        items: Items of the accuracy.
        checkpoint_steps: Steps between checkpoints, which is what a kill can cost.
        text: Path of the text, as ``data.path`` has it.

    Raises:
        ValueError: For fewer than one process or thread.
    """

    work: Path = Path("runs/experiments")
    results: Path = Path("results")
    workers: int = 2
    threads: int = 1
    items: int = 1000
    checkpoint_steps: int = 400
    text: str = "python-stdlib"

    def __post_init__(self) -> None:
        for name in ("workers", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def corpus(self) -> Path:
        return self.work / "corpus"


@dataclass(frozen=True)
class Worker:
    """A process that does a task; ``beside`` is the number of others when it began."""

    task: Task
    folder: Path
    process: subprocess.Popen[bytes]
    bar: TaskID
    started: float
    first_step: int

    @classmethod
    def start(cls, task: Task, settings: Settings, *, beside: int, bar: TaskID) -> Worker:
        """Describe the task in its folder and start a process on it, which goes on from what is there."""
        folder = settings.work / task.key
        folder.mkdir(parents=True, exist_ok=True)
        description = {
            "parent": str(settings.work / task.parent / END) if task.parent else None,
            "merge": [str(settings.work / key / END) for key in task.needs] if len(task.needs) > 1 else [],
            "before": astuple(sunk_in(task.fit)),
            "measure": task.run is not None,
            "corpus": str(settings.corpus),
            "items": settings.items,
            "beside": beside,
        }
        (folder / TASK).write_text(json.dumps(description), encoding="utf-8")
        fit = yaml.safe_dump(_with_paths(_with_start(task, folder, settings), folder, settings), sort_keys=False)
        (folder / FIT).write_text(fit, encoding="utf-8")
        threads = str(settings.threads)
        with (folder / LOG).open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "lit_recycle.experiments.worker", str(folder)],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads},
            )
        return cls(task, folder, process, bar, time.monotonic(), _step(folder) or task.start)

    def step(self) -> int:
        """Optimizer steps that are done."""
        return _step(self.folder) or self.first_step

    def why_it_failed(self) -> str | None:
        """Its last words, if it has ended and not well."""
        if not self.process.returncode:
            return None
        said = (self.folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        last = next((line for line in reversed(said) if line.strip()), "no output")
        return f"exit status {self.process.returncode}, {last}"


def _step(folder: Path) -> int | None:
    try:
        return int(json.loads((folder / STEP).read_text(encoding="utf-8")))
    except (OSError, ValueError):  # nothing yet, or half of it
        return None


def _with_start(task: Task, folder: Path, settings: Settings) -> Fit:
    """The configuration as ``fit`` takes it: from the weights of other tasks, or with new ones."""
    fit = {key: value for key, value in task.fit.items() if key != "start"}
    if not task.needs:
        return fit
    weights = folder / MERGED if len(task.needs) > 1 else settings.work / task.needs[0] / END
    model = {key: value for key, value in fit["model"].items() if key != "config"}
    return fit | {"model": model | {"init_from": str(weights)}}


def _with_paths(fit: Fit, folder: Path, settings: Settings) -> Fit:
    """The configuration with this machine's paths, and what keeps checkpoints and numbers; nobody reads a sample."""
    record = {"end": str(folder / END), "progress": str(folder / STEP)}
    checkpoint = {
        "dirpath": str(folder / "checkpoints"),
        "filename": "{step}",
        "every_n_train_steps": settings.checkpoint_steps,
        "save_top_k": 1,
        "monitor": "step",
        "mode": "max",
    }
    callbacks = [
        {"class_path": "lit_recycle.callbacks.RunRecord", "init_args": record},
        {"class_path": "lit_recycle.callbacks.RunSummary", "init_args": {"sample_tokens": 0}},
        *(fit["trainer"].get("callbacks") or []),
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": checkpoint},
    ]
    text = {"path": str(corpus.documents_file(settings.corpus)), "cache_dir": str(settings.corpus / "cache")}
    return merge(fit, {"trainer": {"default_root_dir": str(folder), "callbacks": callbacks}, "data": text})
