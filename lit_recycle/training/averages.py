"""Weight averages of Lightning's ``WeightAveraging`` callbacks (EMA among them), which grow along with the model.

An average is one more set of named tensors, made into larger ones by the same recipes. A checkpoint has it under
``state_dict``, and the weights in training under ``current_model_state``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.optim.swa_utils import AveragedModel

from lit_recycle.checkpoints.native import CURRENT, trained_weights
from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.shards import like_sharded
from lit_recycle.training import named_state


def refuse_averages(trainer: L.Trainer) -> None:
    """Raises ``ValueError`` for a callback that averages weights and cannot do so here."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set where mypy does not look
        name = type(callback).__name__
        if isinstance(callback, StochasticWeightAveraging):
            raise ValueError(
                f"{name} goes by epochs and keeps the module as it was set up, so it cannot follow a growth: take "
                "lightning.pytorch.callbacks.EMAWeightAveraging or WeightAveraging"
            )
        if isinstance(callback, WeightAveraging) and isinstance(trainer.strategy, FSDPStrategy):
            raise ValueError(
                f"{name} keeps a copy of the module's tensors by name, and FSDP1 has none: set trainer.strategy to "
                "fsdp2, auto or ddp, or leave the callback out and merge checkpoints with `lit-recycle merge`"
            )
        sharded = isinstance(trainer.strategy, ModelParallelStrategy)
        # Lightning has no public name for where its callback keeps the average.
        if isinstance(callback, WeightAveraging) and sharded and callback._device is not None:
            raise ValueError(f"{name}.device: under FSDP2 an average is sharded as the weights are: leave it out")


def averages(trainer: L.Trainer) -> Iterator[AveragedModel]:
    """The averages that a run keeps."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set where mypy does not look
        # Lightning gives no other access to the model that its callback keeps.
        if isinstance(callback, WeightAveraging) and callback._average_model is not None:
            yield callback._average_model


def update_averages(trainer: L.Trainer, module: L.LightningModule, *batch: Any) -> None:
    """Take the step that has been taken into the averages; once, however often it is called.

    Args:
        trainer: The trainer.
        module: The module in training.
        *batch: Further arguments of ``on_train_batch_end``.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]  # set where mypy does not look
        if isinstance(callback, WeightAveraging):
            callback.on_train_batch_end(trainer, module, *batch)


def grow_averages(trainer: L.Trainer, module: nn.Module, plan: GrowthPlan) -> None:
    """Give the averages the grown shape, divided among processes as the grown module is.

    Each tensor of the small one is let go after its last use.
    """
    parameters = {named_state.clean_name(name): p for name, p in module.named_parameters()}
    for average in averages(trainer):
        copy: Any = average.module  # of the module in training, which can grow
        weights = named_state.weights(copy)
        copy.set_shape(plan.after, copy.growth)
        with torch.device("meta"):
            copy.build()
        tied = named_state.tied(copy)
        grown = {n: like_sharded(t, parameters.get(n, t)) for n, t in grow_tensors(plan, weights)}
        copy.load_state_dict(grown, assign=True)
        named_state.tie(copy, tied)


def begin_averages(trainer: L.Trainer, module: L.LightningModule) -> None:
    """Let averages be of a module that has been built anew, of another shape; a checkpoint brings their values."""
    for average in averages(trainer):
        average.module = deepcopy(module).to(next(average.parameters()).device)


def load_sharded_averages(
    trainer: L.Trainer, model: nn.Module, path: Path, checkpoint: Mapping[str, Any]
) -> dict[str, Any]:
    """Read a checkpoint's average into that of a run, each process its own part.

    Returns:
        What the averaging callback looks for in a checkpoint, in the form that it can take: the tensors themselves.
    """
    found: dict[str, Any] = {}
    for average in averages(trainer):
        if path.is_dir():
            named_state.load_folder(average.module, [], path, checkpoint)
        else:
            named_state.load_weights(average.module, checkpoint["state_dict"])
        found["state_dict"] = named_state.weights(average.module)
        if "averaging_state" in checkpoint:
            found[CURRENT] = named_state.weights(model)
    return found


def reshard_for_averages(trainer: L.Trainer, module: nn.Module) -> None:
    """Let a module under FSDP2 have its shards again, which a pass forward alone leaves together.

    The averaging callback exchanges parameters with the average, one by one.
    """
    if next(averages(trainer), None) is not None:
        for part in module.modules():
            if isinstance(part, FSDPModule):
                part.reshard()


def take_trained_weights(trainer: L.Trainer, checkpoint: dict[str, Any]) -> None:
    """Let a run that keeps no average go on with the weights that were in training, not with their average."""
    if trainer.state.fn == TrainerFn.FITTING and CURRENT in checkpoint and next(averages(trainer), None) is None:
        rank_zero_info("the checkpoint's average of weights is left behind: no callback goes on with it")
        checkpoint["state_dict"] = trained_weights(checkpoint)
