"""Files of loggers, read back: scalars, texts and arrays, without what a resumed run has taken back.

TensorBoard's event files, or what a CSVLogger and `lit_recycle.training.loggers.InFiles` have written.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")
EVENT_FILES = "events.out.tfevents.*"
METRICS = "metrics.csv"
VERSION = "version_"
"""Beginning of the names of folders in which a CSVLogger puts each process of a run."""
START = "run/start"
OTHER_AXES = "over_"
"""Beginning of the names of folders whose points lie over other counts than steps."""


class Series(NamedTuple):
    """Points of a scalar: optimizer steps before the step that was measured, and values."""

    steps: np.ndarray
    values: np.ndarray


class Written(NamedTuple):
    """What was logged.

    Attributes:
        scalars: By tag.
        arrays: Numbers behind pictures, by tag: step and array of each.
        texts: By tag, in order.
    """

    scalars: dict[str, Series]
    arrays: dict[str, list[tuple[int, np.ndarray]]]
    texts: dict[str, list[str]]


def read_tensorboard(folder: Path) -> Written:
    """All event files of a folder as one run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of each resume
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    events.Reload()
    scalars = {
        tag: _series({point.step: point.value for point in events.Scalars(tag)}) for tag in events.Tags()["scalars"]
    }
    arrays: dict[str, list[tuple[int, np.ndarray]]] = {}
    texts: dict[str, list[str]] = {}
    written = events.Tensors(START) if START in events.Tags()["tensors"] else []
    begins = [(point.wall_time, point.step) for point in written]
    for tag in events.Tags()["tensors"]:
        points = [point for point in events.Tensors(tag) if tag == START or not _taken_back(point, begins)]
        values = [(point.step, make_ndarray(point.tensor_proto)) for point in points]
        if events.SummaryMetadata(tag).plugin_data.plugin_name == "text":
            texts[tag] = [str(value.item(), "utf-8") for _, value in values]
        else:
            arrays[tag.removesuffix("/data")] = values
    return Written(scalars, arrays, texts)


def _series(by_step: dict[int, float]) -> Series:
    steps = sorted(by_step)
    return Series(np.array(steps), np.array([by_step[step] for step in steps]))


def _taken_back(point: Any, begins: list[tuple[float, int]]) -> bool:
    """Whether a later process went on from before this point; TensorBoard's reader heeds that for scalars only."""
    return any(point.step >= step and point.wall_time < wall_time for wall_time, step in begins)


def read_csv(folder: Path) -> Written:
    """``metrics.csv`` and what lies beside it; or those of versions, each of which takes the place of what it redoes.

    Raises:
        ValueError: A file is not what a CSVLogger writes.
    """
    points: dict[str, dict[int, float]] = {}
    arrays: dict[str, dict[int, np.ndarray]] = {}
    texts: dict[str, dict[tuple[int, int], str]] = {}
    for number, version in enumerate(_versions(folder)):
        begin = min((step for step, _ in _files(version / "texts" / START)), default=0)
        points = {tag: _until(by_step, begin) for tag, by_step in points.items()}
        arrays = {tag: _until(by_step, begin) for tag, by_step in arrays.items()}
        for tag, kept in texts.items():
            texts[tag] = {at: text for at, text in kept.items() if tag == START or at[1] < begin}
        for step, tag, value in _rows(version / METRICS):
            points.setdefault(tag, {})[step] = value
        for tag, step, file in _tagged(version / "texts"):
            texts.setdefault(tag, {})[number, step] = file.read_text()
        for tag, step, file in _tagged(version / "arrays"):
            arrays.setdefault(tag, {})[step] = np.load(file, allow_pickle=False)
    return Written(
        {tag: _series(by_step) for tag, by_step in points.items() if by_step},
        {tag: sorted(by_step.items(), key=lambda item: item[0]) for tag, by_step in arrays.items()},
        {tag: [kept[at] for at in sorted(kept)] for tag, kept in texts.items()},
    )


def _until(by_step: dict[int, T], end: int) -> dict[int, T]:
    return {step: value for step, value in by_step.items() if step < end}


def _versions(folder: Path) -> list[Path]:
    found = [path.parent for path in folder.glob(f"{VERSION}*/{METRICS}")]
    return sorted(found, key=lambda path: int(re.sub(r"\D", "", path.name) or 0)) or [folder]


def _rows(file: Path) -> Iterator[tuple[int, str, float]]:
    with open(file, newline="") as lines:
        for row in csv.DictReader(lines):
            if not (row.get("step") or "").isdigit():
                raise ValueError(f"{file} was not written by a CSVLogger: it has no column of steps")
            step = int(row.pop("step") or 0)
            yield from ((step, tag, float(value)) for tag, value in row.items() if value and tag != "epoch")


def _tagged(folder: Path) -> Iterator[tuple[str, int, Path]]:
    for tag in sorted({file.parent for file in folder.rglob("step=*")}):
        yield from ((tag.relative_to(folder).as_posix(), step, file) for step, file in _files(tag))


def _files(folder: Path) -> list[tuple[int, Path]]:
    return sorted((int(file.stem.removeprefix("step=")), file) for file in folder.glob("step=*"))
