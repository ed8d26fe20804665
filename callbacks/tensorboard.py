"""TensorBoard layout: custom scalars, hyperparameters, and the plan of the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import lightning as L
from typing_extensions import override

from lit_recycle.callbacks.growth import GrowthCallback
from lit_recycle.callbacks.monitor import writers
from lit_recycle.data.pace import pace_of
from lit_recycle.growth.history import of_this_run
from lit_recycle.growth.schedule import Stage
from lit_recycle.growth.shape import sizes
from lit_recycle.text import human, listing
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.loggers import holders
from lit_recycle.training.param_groups import main_group
from lit_recycle.training.tensorboard import LAYOUT, purge, write_hyperparameters

METRICS = ("loss/val", "loss/train", "compute/tokens", "compute/flops", "compute/active_params_mean")
"""What the HParams page compares runs by."""
HPARAMS = {name: name for name in ("layers", "experts", "top_k", "params")} | {"active_params": "params_active"}
"""Names of sizes in its table, which shows the first five columns by the alphabet: experts, growth, layers, lr, …"""


class TensorBoardLayout(L.Callback):
    """Makes a run readable in TensorBoard, whichever TensorBoardLogger is configured.

    - A run that is resumed into its folder continues its curves: points that were logged after the checkpoint are
      taken back. A run that begins anew in the folder of another takes the place of that one.
    - A custom-scalars page: losses over tokens, FLOPs and steps with growths marked, and a page per group.
    - The plan as text, ``run/plan``; the shape of the run at its start as JSON, ``run/start``.
    - Hyperparameters in the HParams page, with the last losses and what they have cost.
    """

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        for writer in writers(trainer):
            purge(writer, trainer.global_step)
        for holder in holders(trainer):
            # The report takes back texts and arrays from before this one, so it comes first.
            start = json.dumps(run_start(trainer, pl_module), indent=2)
            holder.text("run/start", f"```json\n{start}\n```", trainer.global_step)
            holder.text("run/plan", plan_table(planned(trainer, pl_module)), trainer.global_step)
        for writer in writers(trainer):
            writer.add_custom_scalars(LAYOUT)
            write_hyperparameters(writer, hyperparameters(trainer, pl_module), METRICS)


def planned(trainer: L.Trainer, module: GrowableModule) -> list[Stage]:
    """The stages to come, the present one first; empty without growth."""
    growth = next((c for c in trainer.callbacks if isinstance(c, GrowthCallback)), None)  # type: ignore[attr-defined]
    return growth.stages(trainer, module) if growth else []


def plan_table(stages: list[Stage]) -> str:
    """Markdown: a row per stage, the source maps below."""
    if not stages:
        return "no growth is planned"
    head = "| from step | to step | layers × experts (top-k) | parameters | active | tokens | FLOPs | begins with |"
    lines = [head, "|---" * 8 + "|"]
    for stage in stages:
        size = sizes(stage.shape)
        lines.append(
            f"| {stage.start.steps:,} | {stage.end.steps:,} "
            f"| {size['layers']} × {size['experts']} ({size['top_k']}) "
            f"| {human(size['params'])} | {human(size['active_params'])} "
            f"| {human(stage.end.tokens - stage.start.tokens)} | {stage.end.flops - stage.start.flops:.3g} "
            f"| {stage.label or '–'} |"
        )
    return "\n".join([*lines, "", *source_maps(stages)])


def source_maps(stages: list[Stage]) -> Iterator[str]:
    for stage in stages:
        if stage.plan is None:
            continue
        maps = [f"Source {what}: `{listing(m.sources)}`." for what, m in stage.plan.listing()]
        yield " ".join([f"Growth at step {stage.start.steps:,}.", *maps]) + "\n"


def run_start(trainer: L.Trainer, module: GrowableModule) -> dict[str, Any]:
    """What `lit-recycle report` must know besides points: plain types."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    progress = module.progress
    return {
        "sizes": sizes(module.shape),
        "growth": of_this_run(module.growth),
        "steps": progress.steps,
        "tokens": progress.tokens,
        "flops": progress.flops,
        "max_steps": trainer.max_steps,
        "seq_len": data.seq_len,
        "tokens_per_step": tokens_per_step(trainer),
    }


def tokens_per_step(trainer: L.Trainer) -> int:
    """Of an optimizer step, over all processes, when warm-ups are over."""
    return pace_of(trainer, trainer.datamodule).full.tokens  # type: ignore[attr-defined]


def hyperparameters(trainer: L.Trainer, module: GrowableModule) -> dict[str, int | float | str | bool]:
    """What tells runs apart, as columns: the first shape, the growths, the optimizer and the batch."""
    growth = of_this_run(module.growth)
    first = growth[0]["sizes_before"] if growth else sizes(module.shape)
    growths = [(r["label"], r["steps"]) for r in growth]
    growths += [(stage.label, stage.start.steps) for stage in planned(trainer, module) if stage.label]
    (optimizer,) = trainer.optimizers
    group = main_group(optimizer)
    return {
        **{HPARAMS.get(name, f"width: {name}"): size for name, size in first.items() if name != "experts_by_layer"},
        "growth": ", ".join(f"{label} @{steps}" for label, steps in growths) or "none",
        "optimizer": type(getattr(optimizer, "optimizer", optimizer)).__name__,
        "lr": float(group["initial_lr"] if "initial_lr" in group else group["lr"]),
        "weight_decay": float(group.get("weight_decay", 0.0)),
        "router_balance_loss": float(getattr(module, "balance_loss", 0.0)),
        "tokens_per_step": tokens_per_step(trainer),
        "max_steps": trainer.max_steps,
        "precision": str(trainer.precision),
    }
