"""Losses over tokens and FLOPs, drawn as they are over optimizer steps, by the loggers that have such axes.

The columns ``compute/tokens`` and ``compute/flops`` of a CSVLogger are axes for whoever reads them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from typing_extensions import override


class Axis(NamedTuple):
    """A count of a run, over which losses are drawn as they are over optimizer steps.

    Attributes:
        name: in plural: ``tokens``, ``GFLOPs``.
        unit: what one step on the axis is worth.
    """

    name: str
    unit: int


TOKENS, GFLOPS = Axis("tokens", 1), Axis("GFLOPs", 10**9)


class AxisWriter(ABC):
    """Writes points over another count than optimizer steps: ``loss/train`` becomes ``loss/train_over_tokens``.

    Attributes:
        axis: the count.
    """

    def __init__(self, axis: Axis) -> None:
        self.axis = axis

    def _at(self, count: int) -> int:
        return -(-count // self.axis.unit)

    def write(self, values: Mapping[str, float], count: int) -> None:
        """Points of a step that began at ``count``."""
        self._write(values, self._at(count))

    def write_end(self, values: Mapping[str, float], count: int) -> None:
        """Points measured at the end of the step that led to ``count``; belong to that step, should it be resumed."""
        self._write(values, max(self._at(count) - 1, 0))

    def mark(self, tag: str, low: float, high: float, count: int) -> None:
        """A vertical stroke, as a curve of two points."""
        self._write({tag: low}, self._at(count))
        self._write({tag: high}, self._at(count) + 1)

    def _write(self, values: Mapping[str, float], at: int) -> None:
        self._log({f"{tag}_over_{self.axis.name}": value for tag, value in values.items()}, at)

    @abstractmethod
    def _log(self, values: Mapping[str, float], at: int) -> None:
        """Points at a place of the axis."""

    def close(self) -> None:  # noqa: B027 (most have nothing to close)
        """No more points come."""


class TensorBoardAxis(AxisWriter):
    """A run inside a run, which TensorBoard shows as its own: it knows one axis per run, and takes points back by it.

    Args:
        logger: The run's.
        axis: The count.
        now: Its value at the beginning; points that earlier processes wrote from there on are taken back.
    """

    def __init__(self, logger: TensorBoardLogger, axis: Axis, now: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(axis)
        self._writer = SummaryWriter(str(Path(logger.log_dir) / f"over_{axis.name}"), purge_step=self._at(now))

    @override
    def _log(self, values: Mapping[str, float], at: int) -> None:
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, at)
        self._writer.flush()

    @override
    def close(self) -> None:
        self._writer.close()


class WandbAxis(AxisWriter):
    """Metrics whose charts have the count below them."""

    def __init__(self, logger: WandbLogger, axis: Axis, now: int) -> None:
        super().__init__(axis)
        self._run, self._known = logger.experiment, set[str]()
        self._run.define_metric(f"axis/{axis.name}", hidden=True)

    @override
    def _log(self, values: Mapping[str, float], at: int) -> None:
        for tag in values.keys() - self._known:
            self._run.define_metric(tag, step_metric=f"axis/{self.axis.name}")
        self._known |= values.keys()
        self._run.log({**values, f"axis/{self.axis.name}": at})


class MLflowAxis(AxisWriter):
    """Metrics whose steps are the count."""

    def __init__(self, logger: MLFlowLogger, axis: Axis, now: int) -> None:
        super().__init__(axis)
        self._logger = logger

    @override
    def _log(self, values: Mapping[str, float], at: int) -> None:
        self._logger.log_metrics(dict(values), at)


AXES: dict[type[Logger], Callable[[Any, Axis, int], AxisWriter]] = {
    TensorBoardLogger: TensorBoardAxis,
    WandbLogger: WandbAxis,
    MLFlowLogger: MLflowAxis,
}


def axis_writers(trainer: L.Trainer, now: Mapping[Axis, int]) -> list[AxisWriter]:
    """For each logger that can, one for each axis; none on other processes than the first."""
    if not trainer.is_global_zero:
        return []
    makers = [(logger, made) for logger in trainer.loggers for kind, made in AXES.items() if isinstance(logger, kind)]
    return [made(logger, axis, count) for logger, made in makers for axis, count in now.items()]
