"""TensorBoard files: runs that continue, the layout of pages, hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def purge(writer: SummaryWriter, step: int) -> None:
    """Take back all points from ``step`` on that earlier processes wrote into the folder.

    They are what a run has done after the checkpoint that it now goes on from. ``SummaryWriter(purge_step=…)`` says
    the same, but when Lightning makes its writer the checkpoint has not been read yet.
    """
    from tensorboard.compat.proto.event_pb2 import Event, SessionLog

    writer.file_writer.add_event(Event(step=step, file_version="brain.Event:2"))  # type: ignore[attr-defined]
    begin = Event(step=step, session_log=SessionLog(status=SessionLog.START))
    writer.file_writer.add_event(begin)  # type: ignore[attr-defined]


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
        "validation loss (nats per token), never smoothed": ["Margin", ["loss/val"] * 3],
    },
    "growth": {
        "loss minus loss before the last growth, and minus the small model's for the same compute (nats per token)": [
            "Multiline",
            [r"^growth/loss_vs_before$", r"^growth/loss_vs_small$"],
        ],
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
        "parameters, never smoothed": ["Margin", ["compute/params"] * 3],
        "active parameters, never smoothed": ["Margin", ["compute/active_params"] * 3],
        "parameters: mean over the run's tokens": ["Multiline", [r"^compute/(active_)?params_mean$"]],
    },
}
"""The custom-scalars page: category, chart, tags. A chart with margins, here of no width, is one without smoothing."""


def write_hyperparameters(
    writer: SummaryWriter, values: Mapping[str, int | float | str | bool], metrics: Sequence[str]
) -> None:
    """A row of the HParams page. ``metrics`` are tags of scalars; the page shows the last point of each, live.

    ``SummaryWriter.add_hparams`` would want final values and put them into a run of its own.
    """
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(dict(values), dict.fromkeys(metrics, 0.0)):
        writer.file_writer.add_summary(summary)  # type: ignore[attr-defined]


def write_text(writer: SummaryWriter, tag: str, text: str, step: int) -> None:
    """Markdown on the page of texts. ``SummaryWriter.add_text`` would put ``/text_summary`` behind the tag."""
    from torch.utils.tensorboard.summary import text as text_summary

    summary = text_summary(tag, text)
    summary.value[0].tag = tag
    writer.file_writer.add_summary(summary, step)  # type: ignore[attr-defined]
