"""What a growth in a run is told by: the loss of one batch before and after it, sizes, and a few lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch

from lit_recycle.data.batches import Batch
from lit_recycle.growth.history import GrowthRecord
from lit_recycle.growth.sources import AXIS_NAMES
from lit_recycle.growth.update_rules import in_words
from lit_recycle.text import human
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.loggers import holders


@torch.no_grad()
def batch_loss(trainer: L.Trainer, module: GrowableModule, batch: Batch) -> float | None:
    """Loss on a batch, mean over all processes, in evaluation mode and through the strategy's own wrapping.

    None where the module's ``validation_step`` returns none. What that logs is of no validation, and is left out.
    """
    module.eval()
    with _unlogged(module):
        told: Any = trainer.strategy.validation_step(batch, 0)
    module.train()
    values = told if isinstance(told, dict) else {"loss": told}
    if values.get("loss") is None:
        return None
    weight = torch.as_tensor(values.get("weight", 1), device=module.device).double()
    total = trainer.strategy.reduce(torch.stack([values["loss"].double() * weight, weight]), reduce_op="sum")
    return (total[0] / total[1]).item()


@contextmanager
def _unlogged(module: L.LightningModule) -> Iterator[None]:
    module.log = module.log_dict = lambda *_, **__: None  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        del module.log, module.log_dict


def log_growth(trainer: L.Trainer, record: GrowthRecord, seconds: float) -> None:
    """To the loggers and the console."""
    values = {name: float(record.sizes_after[name]) for name in ("params", "active_params", "layers", "experts")}
    values["seconds"] = seconds
    if record.loss_before is not None and record.loss_after is not None:
        values |= {"loss_before": record.loss_before, "loss_after": record.loss_after}
        values["loss_jump"] = record.loss_after - record.loss_before
    for logger in trainer.loggers:
        logger.log_metrics({f"growth/{name}": value for name, value in values.items()}, step=record.steps)
    for holder in holders(trainer):  # `lit-recycle report` reads it
        holder.text("growth/record", f"```json\n{json.dumps(record.to_dict(), indent=2)}\n```", record.steps)
        holder.text("growth/event", f"```\n{announcement(record, seconds)}\n```", record.steps)
    trainer.print(announcement(record, seconds))


def announcement(record: GrowthRecord, seconds: float) -> str:
    """A growth in a few lines: what it was, and the model before → after."""
    stages = record.sizes_before, record.sizes_after
    rows = {"layers": [str(size["layers"]) for size in stages]}
    if any(size["experts"] for size in stages):
        rows["experts (top-k)"] = [f"{size['experts']} ({size['top_k']})" for size in stages]
    rows |= {name: [str(size.get(name, 0)) for size in stages] for name in AXIS_NAMES.values() if name != "experts"}
    rows["parameters"] = [human(size["params"]) for size in stages]
    rows["active parameters"] = [human(size["active_params"]) for size in stages]
    if record.loss_before is not None:
        rows["loss, same batch"] = [f"{record.loss_before:.4f}", f"{record.loss_after:.4f}"]
    said = in_words(record.event)
    told = {name: row for name, row in rows.items() if row[0] != row[1] or name not in AXIS_NAMES.values()}
    lines = [f"  {name:<24}{old:>9} → {new}" for name, (old, new) in told.items()]
    lines += [f"  {'trained':<24}{said}"] if said else []
    head = f"growth: {record.label}, at step {record.steps:,}, {human(record.tokens)} tokens ({seconds:.1f} s)"
    return "\n".join(["", head, *lines, ""])
