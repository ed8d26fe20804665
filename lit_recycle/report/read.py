"""Reader of a run's logs: scalars, texts and pictures from its TensorBoard files."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

Axis = Literal["steps", "tokens", "flops", "extra"]
EVENT_FILES = "events.out.tfevents.*"
START = "run/start/text_summary"
OTHER_AXES = "over_"
"""Beginning of the names of folders whose points lie over other counts than steps."""


class Series(NamedTuple):
    """Points of a scalar: optimizer steps before the step that was measured, and values."""

    steps: np.ndarray
    values: np.ndarray


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
    """Read the logs of the run that wrote into a folder.

    Raises:
        ValueError: For a folder without a run's logs, with those of several, or without what the report is made from.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    folder = Path(folder)
    logs = find_logs(folder)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of each resume
    events = EventAccumulator(str(logs), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    scalars = {}
    for tag in events.Tags()["scalars"]:
        by_step = {point.step: point.value for point in events.Scalars(tag)}
        steps = sorted(by_step)
        scalars[tag] = Series(np.array(steps), np.array([by_step[step] for step in steps]))
    arrays: dict[str, list[tuple[int, np.ndarray]]] = {}
    texts: dict[str, list[str]] = {}
    written = events.Tensors(START) if START in events.Tags()["tensors"] else []
    begins = [(point.wall_time, point.step) for point in written]
    for tag in events.Tags()["tensors"]:
        points = [point for point in events.Tensors(tag) if tag == START or not _taken_back(point, begins)]
        values = [(point.step, make_ndarray(point.tensor_proto)) for point in points]
        if tag.endswith("/text_summary"):
            texts[tag.removesuffix("/text_summary")] = [str(value.item(), "utf-8") for _, value in values]
        else:
            arrays[tag.removesuffix("/data")] = values
    missing = [t for t in ("run/start",) if t not in texts] + [t for t in ("compute/tokens",) if t not in scalars]
    if missing:
        raise ValueError(
            f"the logs in {logs} hold no {' and no '.join(missing)}, from which the report is made: train with the "
            "callbacks TensorBoardLayout and ComputeMonitor"
        )
    starts = [_json(text) for text in texts["run/start"]]
    records = [*starts[0]["growth"], *map(_json, texts.get("growth/record", []))]
    return RunLog(
        name=folder.resolve().name,
        folder=logs,
        scalars=scalars,
        arrays=arrays,
        texts={tag: values[-1] for tag, values in texts.items() if values},
        start=starts[0],
        growth=sorted(records, key=lambda record: record["steps"]),
    )


def _taken_back(point: Any, begins: list[tuple[float, int]]) -> bool:
    """Whether a later process went on from before this point; TensorBoard's reader heeds that for scalars only."""
    return any(point.step >= step and point.wall_time < wall_time for wall_time, step in begins)


def find_logs(folder: Path) -> Path:
    """The one folder at or below ``folder`` with event files over steps."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: give the default_root_dir of a run")
    found = sorted({path.parent for path in folder.rglob(EVENT_FILES) if not path.parent.name.startswith(OTHER_AXES)})
    if folder in found:
        return folder
    if not found:
        raise ValueError(f"{folder} holds no TensorBoard logs ({EVENT_FILES}): give the default_root_dir of a run")
    if len(found) > 1:
        names = ", ".join(str(path) for path in found)
        raise ValueError(f"{folder} holds the logs of several runs: give one or more of {names}")
    return found[0]


def _json(text: str) -> dict[str, Any]:
    return json.loads(text.removeprefix("```json\n").removesuffix("\n```"))
