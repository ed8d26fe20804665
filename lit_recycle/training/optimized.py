"""Optimizer, learning-rate schedule and gradients of a language model that can change its shape during a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from typing_extensions import override

from lit_recycle.addresses import Place
from lit_recycle.checkpoints.find import checkpoints_of
from lit_recycle.checkpoints.io import finish_saves
from lit_recycle.data.batches import Batch
from lit_recycle.growth.shape import Shape
from lit_recycle.hub.shape import parameter_names
from lit_recycle.training import named_state
from lit_recycle.training.evaluated import EvaluatedModule
from lit_recycle.training.finite import FiniteWatch, check_weights
from lit_recycle.training.gradients import GradientNorm
from lit_recycle.training.param_groups import check_chosen, check_param_groups, parameter_groups, settle
from lit_recycle.training.resumed import changed_options, check_schedule, saved_groups
from lit_recycle.training.schedules import WarmupStableDecay
from lit_recycle.training.spikes import SpikeSkip, SpikeWatch, skip_step


def default_optimizer(params: Any) -> Optimizer:
    """AdamW as most language models are pretrained with it."""
    return AdamW(params, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


class OptimizedModule(EvaluatedModule):
    """A model with an optimizer of named groups, whose gradients are measured, clipped, and watched for what is not
    finite; steps at which the loss spikes can be skipped. See :class:`~lit_recycle.LitMoE` for the arguments.
    """

    def __init__(
        self,
        shape: Shape,
        growth: list[dict[str, Any]] | None = None,
        optimizer: OptimizerCallable | None = None,
        param_groups: list[dict[str, Any]] | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        gradient_norm: Literal["total", "groups"] | None = None,
        spike_skip: SpikeSkip | None = None,
    ) -> None:
        super().__init__(shape, growth)
        self.optimizer, self.lr_scheduler = optimizer or default_optimizer, lr_scheduler
        self.param_groups = param_groups or []
        check_param_groups(self.param_groups)
        if gradient_norm not in (None, "total", "groups"):
            raise ValueError(f"model.gradient_norm must be total or groups, or null, got {gradient_norm!r}")
        self.gradient_norm = gradient_norm
        self.spikes = SpikeWatch(spike_skip) if spike_skip else None
        self.skip: Tensor | None = None
        """One if the optimizer step at hand is skipped, zero if not."""
        self.watch = FiniteWatch(self._newest)
        self.saved_optimizer: str | None = None
        """Name of the optimizer whose state a checkpoint brings, if one does."""
        self.saved_groups: list[dict[str, Any]] = []
        self.saved_schedule: dict[str, Any] | None = None

    # --- checkpoints -------------------------------------------------------------------------------------------------

    @override
    def set_shape(self, shape: Shape, growth: list[dict[str, Any]]) -> None:
        if self.spikes:
            self.spikes.begin_anew()
        super().set_shape(shape, growth)

    def note_saved(self, checkpoint: Mapping[str, Any]) -> None:
        """Keep in mind what a checkpoint's optimizer and schedule are, for when this run's own are made."""
        self.saved_optimizer, self.saved_groups = checkpoint.get("optimizer"), saved_groups(checkpoint)
        self.saved_schedule = next(iter(checkpoint.get("lr_schedulers", [])), None)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.note_saved(checkpoint)
        if self.spikes and "spikes" in checkpoint:
            self.spikes.load_state_dict(checkpoint["spikes"])

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.watch.check(wait=True)
        check_weights(self.parameters(), self.trainer.global_step, self._newest)
        super().on_save_checkpoint(checkpoint)
        if self.spikes:
            checkpoint["spikes"] = self.spikes.state_dict()
        if checkpoint.get("optimizer_states"):
            checkpoint["optimizer"] = type(self.trainer.optimizers[0]).__name__

    def _newest(self) -> Place | None:
        finish_saves(self.trainer)
        return next(iter(checkpoints_of(self.trainer)), None)

    # --- optimizer and schedule --------------------------------------------------------------------------------------

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        named = ((named_state.clean_name(name), p) for name, p in self.named_parameters())
        optimizer = self.make_optimizer(named, self.dims)
        if self.saved_optimizer not in (None, type(optimizer).__name__):
            raise ValueError(
                f"the checkpoint holds the state of {self.saved_optimizer}, and model.optimizer is "
                f"{type(optimizer).__name__}: set it to that one, or start afresh from the weights with model.init_from"
            )
        scheduler = self.make_schedule(optimizer, self.trainer.max_steps)
        if self.saved_schedule is not None:
            check_schedule(scheduler, self.saved_schedule)
        if changed := changed_options(optimizer, self.saved_groups):
            rank_zero_info(
                f"the checkpoint's optimizer is what goes on, whatever model.optimizer says: {', '.join(changed)}; to "
                "train with others start from its weights with model.init_from"
            )
        self.saved_groups = []  # a growth makes the optimizer anew
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def make_schedule(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        """The learning rate's schedule in a run of so many steps."""
        if steps < 1:
            raise ValueError("trainer.max_steps must be set: the length of a run, in optimizer steps")
        if self.lr_scheduler is None:
            return WarmupStableDecay(optimizer, steps, warmup_steps=steps // 50, decay_steps=steps // 5)
        try:
            scheduler = self.lr_scheduler(optimizer)
        except (TypeError, ArithmeticError) as error:
            raise ValueError(f"model.lr_scheduler: {error}; set it in model.lr_scheduler.init_args") from error
        if isinstance(scheduler, ReduceLROnPlateau):
            raise ValueError(
                "model.lr_scheduler ReduceLROnPlateau follows a validation loss, and a growth is a jump of it: take "
                "one that goes by steps, such as lit_recycle.training.schedules.WarmupStableDecay"
            )
        return scheduler

    def make_optimizer(self, named: Iterable[tuple[str, Tensor]], dims: Mapping[str, int]) -> Optimizer:
        """The optimizer of these parameters, in groups; ``dims`` says how many dimensions they have undivided."""
        groups = parameter_groups(named, dims, self.shape.naming, self.param_groups)
        try:
            optimizer = self.optimizer(groups)
        except (ValueError, TypeError, RuntimeError) as error:  # torch names no key
            raise ValueError(f"model.optimizer: {error}; set it in model.optimizer.init_args") from error
        settle(optimizer, self.param_groups)
        return optimizer

    @override
    def on_train_start(self) -> None:
        self.check_patterns()

    def check_patterns(self) -> None:
        """Raises ``ValueError`` for a group of ``param_groups`` that has no parameter in any shape of the run."""
        shapes = (*(self.shape_of(record["before"]) for record in self.growth), *self.shapes_to_come)
        own = (named_state.clean_name(name) for name, _ in self.named_parameters())
        check_chosen(chain([own], map(parameter_names, shapes)), self.param_groups)

    # --- gradients ---------------------------------------------------------------------------------------------------

    @override
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.watch.check(wait=False)

    @override
    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        precision, norm = self.trainer.precision_plugin, None
        scaler, is_fused = getattr(precision, "scaler", None), any(g.get("fused") for g in optimizer.param_groups)
        by_norm = bool(gradient_clip_val) and (gradient_clip_algorithm or "norm") == "norm"
        measured = by_norm or self.gradient_norm or self.spikes
        if scaler is not None and is_fused and (gradient_clip_val or measured):
            scaler.unscale_(optimizer)  # the fused step would divide by the scale only afterwards
        if measured:
            norm = self._measure_gradients(optimizer, float(gradient_clip_val or 0) if by_norm else None)
        if not by_norm and not (isinstance(precision, MixedPrecision) and is_fused):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif not by_norm and gradient_clip_val:  # Lightning refuses in any case
            Precision.clip_gradients(precision, optimizer, gradient_clip_val, GradClipAlgorithmType.VALUE)
        excused = None
        if self.spikes and norm is not None:
            self.skip = self.spikes.observe(torch.stack(self.step_losses).mean(), norm)
            skip_step(optimizer, self.skip)
            self.step_values["gradient/skipped_steps"] = self.spikes.skipped
            excused = self.spikes.excused
        # Gradients out of the range of float16 are what a scaler is there for: it leaves out the step.
        self.watch.end_step(self.trainer.global_step, norm if scaler is None else None, excused)

    def _measure_gradients(self, optimizer: Optimizer, limit: float | None) -> Tensor:
        """The norm of the gradients over all processes, logged; then they are clipped to ``limit``."""
        assert self.trainer.model is not None
        gradients = GradientNorm(self.trainer.model, optimizer)
        norm = gradients.total()
        self.step_values["gradient/norm"] = norm
        if self.gradient_norm == "groups":
            names = (f"gradient/norm/{group['name']}" for group in optimizer.param_groups)
            self.step_values |= dict(zip(names, gradients.by_group(), strict=True))
        if limit is not None:
            gradients.clip(norm, limit)
        return norm

    @override
    def on_train_end(self) -> None:
        self.watch.check(wait=True)
