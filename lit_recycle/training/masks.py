"""Masks of pruned weights in a run: who holds them, and how a sharded model gets those of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from lit_recycle.checkpoints import sharded
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.training import named_state


@runtime_checkable
class HoldsMasks(Protocol):
    """A callback that holds weights at zero."""

    def grow_masks(self, trainer: L.Trainer, module: L.LightningModule, plan: GrowthPlan) -> None:
        """Follow a growth; the module is the grown one, and its optimizer a new one."""


def holders_of_masks(trainer: L.Trainer) -> list[HoldsMasks]:
    """The callbacks of a run that hold masks."""
    return [callback for callback in trainer.callbacks if isinstance(callback, HoldsMasks)]  # type: ignore[attr-defined]


def load_masks(model: nn.Module, path: Path, checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """A checkpoint's masks for a sharded model, each process its own part, as a checkpoint has them; none, none."""
    parameters = named_state.weights(model)
    if path.is_dir():
        names = [n.partition("/")[2] for n in sharded.sizes(path) if n.startswith(f"{sharded.MASKS}/")]
        masks = {name: torch.zeros_like(parameters[name], dtype=torch.uint8) for name in names}
        if masks:
            sharded.load_sharded({f"{sharded.MASKS}/{name}": mask for name, mask in masks.items()}, path)
    else:
        saved: dict[str, Tensor] = checkpoint.get(sharded.MASKS, {})
        masks = {name: named_state.like(parameters[name], mask) for name, mask in saved.items()}
    return {sharded.MASKS: masks} if masks else {}


def leave_masks(trainer: L.Trainer, checkpoint: Mapping[str, Any]) -> None:
    """Say that what was pruned is trained again, in a run in which nobody holds the checkpoint's masks."""
    if trainer.state.fn == TrainerFn.FITTING and checkpoint.get(sharded.MASKS) and not holders_of_masks(trainer):
        rank_zero_info("weights that the checkpoint holds at zero are trained again: no MagnitudePruning holds them")
