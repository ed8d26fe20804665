"""Reader of a run's logs: its stages, and what was measured over steps, tokens and FLOPs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lit_recycle.report.written import EVENT_FILES, METRICS, OTHER_AXES, VERSION, Series, read_csv, read_tensorboard

Axis = Literal["steps", "tokens", "flops", "extra"]


@dataclass(frozen=True)
class Stage:
    """A stretch of a run between growths; ends are steps, tokens and FLOPs."""

    sizes: dict[str, Any]
    """As :func:`lit_recycle.growth.shape.sizes` has them."""
    begin: tuple[int, int, int]
    end: tuple[int, int, int]
    record: dict[str, Any] | None
    """The growth that began it; None for the first."""


@dataclass(frozen=True)
class RunLog:
    """A run as its logs tell it.

    Args:
        name: What curves of it are called.
        folder: Where the event files are.
        scalars: By tag.
        arrays: Numbers behind pictures, by tag: step and array of each.
        texts: By tag, the last text.
        start: Shape of the run at its first beginning, as TensorBoardLayout wrote it.
        growth: Records of all growths, in order.
    """

    name: str
    folder: Path
    scalars: dict[str, Series]
    arrays: dict[str, list[tuple[int, np.ndarray]]]
    texts: dict[str, str]
    start: dict[str, Any]
    growth: list[dict[str, Any]]

    @cached_property
    def _knots(self) -> np.ndarray:
        """Steps, tokens and FLOPs at the points where they are known, ``[points, 3]``; linear between them."""
        tokens, flops = self.scalars["compute/tokens"], self.scalars["compute/flops"]
        points = [(self.start["steps"], self.start["tokens"], self.start["flops"])]
        points += [(r["steps"], r["tokens"], r["flops"]) for r in self.growth]
        points += list(zip(tokens.steps + 1, tokens.values, flops.values, strict=True))
        return np.array(sorted({step: (step, *rest) for step, *rest in reversed(points)}.values()), float)

    @property
    def end(self) -> tuple[int, int, int]:
        """Steps, tokens and FLOPs at the last point."""
        steps, tokens, flops = self._knots[-1]
        return int(steps), int(tokens), int(flops)

    @property
    def sunk_flops(self) -> int:
        """Spent before the first growth; none without one."""
        return self.growth[0]["flops"] if self.growth else 0

    def at(self, steps: Sequence[float] | np.ndarray, axis: Axis) -> np.ndarray:
        """Where optimizer steps lie on an axis. ``extra`` is FLOPs since the first growth."""
        column = {"steps": 0, "tokens": 1, "flops": 2, "extra": 2}[axis]
        x = np.interp(steps, self._knots[:, 0], self._knots[:, column])
        return x - self.sunk_flops if axis == "extra" else x

    def stages(self) -> list[Stage]:
        """The growths that the run has been through, and what lay between."""
        sizes = [r["sizes_before"] for r in self.growth] + [
            self.growth[-1]["sizes_after"] if self.growth else self.start["sizes"]
        ]
        ends = [(r["steps"], r["tokens"], r["flops"]) for r in self.growth] + [self.end]
        begins = [(0, 0, 0), *ends]
        return [
            Stage(size, begin, end, record)
            for size, begin, end, record in zip(sizes, begins, ends, [None, *self.growth], strict=False)
        ]


def read_run(folder: Path) -> RunLog:
    """Read the logs of the run that wrote into a folder: TensorBoard's files, or those of a CSVLogger.

    Raises:
        ValueError: For a folder without a run's logs, with those of several, or without what the report is made from.
    """
    folder = Path(folder)
    logs, kind = find_logs(folder)
    written = read_tensorboard(logs) if kind == EVENT_FILES else read_csv(logs)
    texts, scalars = written.texts, written.scalars
    missing = [t for t in ("run/start",) if t not in texts] + [t for t in ("compute/tokens",) if t not in scalars]
    if missing:
        raise ValueError(
            f"the logs in {logs} hold no {' and no '.join(missing)}, from which the report is made: train with the "
            "callbacks TensorBoardLayout and ComputeMonitor, and trainer.log_every_n_steps no larger than the run"
        )
    starts = [_json(text) for text in texts["run/start"]]
    records = [*starts[0]["growth"], *map(_json, texts.get("growth/record", []))]
    return RunLog(
        name=folder.resolve().name,
        folder=logs,
        scalars=scalars,
        arrays=written.arrays,
        texts={tag: values[-1] for tag, values in texts.items() if values},
        start=starts[0],
        growth=sorted(records, key=lambda record: record["steps"]),
    )


def find_logs(folder: Path) -> tuple[Path, str]:
    """The one folder at or below ``folder`` with a run's logs over steps, and what kind they are of.

    Where there are both, TensorBoard's are read.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: give the default_root_dir of a run")
    for kind, find in ((EVENT_FILES, _with_events), (METRICS, _with_csv)):
        found = find(folder)
        if folder in found:
            return folder, kind
        if len(found) > 1:
            names = ", ".join(str(path) for path in found)
            raise ValueError(f"{folder} holds the logs of several runs: give one or more of {names}")
        if found:
            return found[0], kind
    raise ValueError(f"{folder} holds no logs ({EVENT_FILES} or {METRICS}): give the default_root_dir of a run")


def _with_events(folder: Path) -> list[Path]:
    return sorted({path.parent for path in folder.rglob(EVENT_FILES) if not path.parent.name.startswith(OTHER_AXES)})


def _with_csv(folder: Path) -> list[Path]:
    """Versions beside each other are one run that was resumed."""
    found = {path.parent for path in folder.rglob(METRICS)}
    return sorted({path.parent if path.name.startswith(VERSION) else path for path in found})


def _json(text: str) -> dict[str, Any]:
    return json.loads(text.removeprefix("```json\n").removesuffix("\n```"))
