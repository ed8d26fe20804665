"""TensorBoard writers: runs that continue, axes other than steps, the layout of pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

GIGA = 10**9


def purge(writer: SummaryWriter, step: int) -> None:
    """Take back all points from ``step`` on that earlier processes wrote into the folder.

    They are what a run has done after the checkpoint that it now goes on from. ``SummaryWriter(purge_step=…)`` says
    the same, but when Lightning makes its writer the checkpoint has not been read yet.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    writer.file_writer.add_event(Event(step=step, file_version="brain.Event:2"))  # type: ignore[attr-defined]
    begin = Event(step=step, session_log=SessionLog(status=SessionLog.START))
    writer.file_writer.add_event(begin)  # type: ignore[attr-defined]


class AxisWriter:
    """A run inside a run, whose points lie over another count than optimizer steps; TensorBoard shows it as its own.

    It needs a folder of its own because TensorBoard knows one axis per run, and takes points back by it.

    Args:
        folder: Log folder of the run.
        name: Name of the count, in plural: ``tokens``, ``GFLOPs``.
        unit: What one step on the axis is worth.
        now: The count at the beginning; points that earlier processes wrote from there on are taken back.
    """

    def __init__(self, folder: str | Path, name: str, unit: int, now: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.name, self.unit = name, unit
        self._writer = SummaryWriter(str(Path(folder) / f"over_{name}"), purge_step=self._at(now))

    def _at(self, count: int) -> int:
        return -(-count // self.unit)

    def write(self, values: Mapping[str, float], count: int) -> None:
        """Points of a step that began at ``count``: ``loss/train`` becomes ``loss/train_over_tokens``."""
        for tag, value in values.items():
            self._writer.add_scalar(f"{tag}_over_{self.name}", value, self._at(count))

    def write_end(self, values: Mapping[str, float], count: int) -> None:
        """Points measured at the end of the step that led to ``count``; belong to that step, should it be resumed."""
        for tag, value in values.items():
            self._writer.add_scalar(f"{tag}_over_{self.name}", value, max(self._at(count) - 1, 0))

    def mark(self, tag: str, low: float, high: float, count: int) -> None:
        """A vertical stroke, as the curve of two points that TensorBoard can draw."""
        self._writer.add_scalar(f"{tag}_over_{self.name}", low, self._at(count))
        self._writer.add_scalar(f"{tag}_over_{self.name}", high, self._at(count) + 1)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


VALIDATION = r"^loss/val_(?!perplexity$)(?!(?:.+_)?bits_per_byte$)(.+)"
"""Tags of the losses of named validation sets."""

LAYOUT = {
    "loss": {
        "loss (nats per token) over tokens, growths marked": [
            "Multiline",
            [r"^(loss/(train|val)|growth/mark_\d+)_over_tokens$"],
        ],
        "loss (nats per token) over training GFLOPs, growths marked": [
            "Multiline",
            [r"^(loss/(train|val)|growth/mark_\d+)_over_GFLOPs$"],
        ],
        "loss (nats per token) over optimizer steps": ["Multiline", [r"^loss/(train|val)$"]],
    },
    "growth": {
        "smoothed loss minus loss before the last growth (nats per token)": ["Multiline", [r"^growth/loss_vs_before$"]],
        "cosine of copies with their originals": [
            "Multiline",
            [r"^growth/cosine_(experts|layers)_(weights|momentum)$"],
        ],
        "share of tokens that go to copied experts": ["Multiline", [r"^growth/copies_token_share$"]],
    },
    "experts": {
        "load of the busiest expert (1 = ideal)": ["Multiline", [r"^experts/load_max$"]],
        "effective number of experts": ["Multiline", [r"^experts/effective$"]],
        "experts without a token": ["Multiline", [r"^experts/dead$"]],
    },
    "norms": {"root mean square of the experts' weights": ["Multiline", [r"^norms/"]]},
    "validation": {
        "loss of each validation set (nats per token)": ["Multiline", [VALIDATION + "$"]],
        "bits per byte of each validation set": ["Multiline", [r"^loss/val(_.+)?_bits_per_byte$"]],
        "loss minus the one at the start": ["Multiline", [r"^forgetting/.+_since_start$"]],
        "loss minus the one before the last growth": ["Multiline", [r"^forgetting/.+_since_growth$"]],
    },
    "data": {"times that each source was gone through": ["Multiline", [r"^data/epochs_"]]},
    "compute": {
        "training FLOPs: all, sunk before the first growth": ["Multiline", [r"^compute/flops(_sunk)?$"]],
        "tokens per second": ["Multiline", [r"^compute/tokens_per_second$"]],
        "share of time spent waiting for data": ["Multiline", [r"^compute/data_wait_share$"]],
        "parameters: present and mean over the run's tokens": ["Multiline", [r"^compute/(active_)?params(_mean)?$"]],
    },
}
"""The custom-scalars page: category, chart, tags."""


def write_hyperparameters(
    writer: SummaryWriter, values: Mapping[str, int | float | str | bool], metrics: Sequence[str]
) -> None:
    """A row of the HParams page. ``metrics`` are tags of scalars; the page shows the last point of each, live.

    ``SummaryWriter.add_hparams`` would want final values and put them into a run of its own.
    """
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(dict(values), dict.fromkeys(metrics, 0.0)):
        writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]
