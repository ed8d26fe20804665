"""LitMoE: the Mixture-of-Experts transformer as a LightningModule that can change its shape during a run.

Axes: L MoE layers, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import GradClipAlgorithmType
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from typing_extensions import override

from lit_recycle.checkpoints.io import finish_saves
from lit_recycle.checkpoints.native import checkpoints_of
from lit_recycle.data.batches import Batch
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.shape import Shape
from lit_recycle.hub.joined import Value, whole
from lit_recycle.hub.shape import HubShape, parameter_names, shape_of, with_branches
from lit_recycle.hub.transformers_model import TransformersModel
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.experts import Routing
from lit_recycle.model.kernels import grouped
from lit_recycle.model.kernels.loss import LEFT_OUT
from lit_recycle.model.transformer import MoETransformer, initial_value
from lit_recycle.seeding import seeded
from lit_recycle.training import named_state
from lit_recycle.training.evaluated import EvaluatedModule
from lit_recycle.training.finite import FiniteWatch, check_weights
from lit_recycle.training.gradients import GradientNorm
from lit_recycle.training.param_groups import check_chosen, check_param_groups, parameter_groups, settle
from lit_recycle.training.resumed import changed_options, check_schedule, saved_groups
from lit_recycle.training.schedules import WarmupStableDecay
from lit_recycle.training.spikes import SpikeSkip, SpikeWatch, skip_step
from lit_recycle.training.start import Backend, start_of, verify_start


def default_optimizer(params: Any) -> Optimizer:
    """AdamW as most language models are pretrained with it."""
    return AdamW(params, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


class LitMoE(EvaluatedModule):
    """Next-token training of a :class:`MoETransformer`.

    Args:
        config: Shape of the model at the start of the run. A checkpoint that is resumed brings its own.
        init_from: Start from the weights of this checkpoint, or of this Hugging Face folder, which brings its shape,
            with a fresh optimizer. To go on with a run give `--ckpt_path` instead.
        init_checksums: A file with the SHA-256 of the folder's files, as ``sha256sum`` writes it; those that the folder
            has itself when not given.
        backend: What trains a Hugging Face folder: ``native``, this project's own model, where that expresses it
            exactly; ``transformers``; or ``auto``, the first that can.
        drop_mtp: Leave out the folder's layers for multi-token prediction. No run trains them; otherwise exports take
            them from the folder, grown as the model is.
        optimizer: Takes parameter groups and gives the optimizer; vectors are in a group without weight decay.
            AdamW (fused) when not given.
        param_groups: Parameters with options of their own: each has a ``pattern``, a regular expression that is looked
            for in names, and ``lr``, ``weight_decay`` or whatever else the optimizer takes for a group; ``name`` is
            what logs call it. The first pattern that is found counts.
        reparam: Train matrices as sums of branches that are squeezed into one before they are used: a ``pattern`` that
            is looked for in names of matrices within a layer, ``branches`` (3), and ``product_rank`` for one more
            branch, a product of two matrices (0 for none). A checkpoint that is resumed brings its own.
        lr_scheduler: Takes the optimizer and gives the schedule, stepped every optimizer step. Warm-up over 2 % and
            decay over the last 20 % of ``trainer.max_steps`` when not given.
        gradient_norm: Log the norm of gradients before clipping, ``total`` or of ``groups`` too. When not given, the
            total is logged where it is known, because gradients are clipped by it or spikes are skipped.
        spike_skip: Skip steps whose loss or gradient norm is far above those before; none are skipped when not given.
        balance_loss: Coefficient of the load-balancing loss (Fedus et al. 2022), over the global batch.
        z_loss: Coefficient of the router z-loss (Zoph et al. 2022).
        balance_rate: Step of the balancing bias per optimizer step, where the model has one (Wang et al. 2024).
        activation_checkpointing: Recompute blocks in the backward pass instead of keeping their activations.
        compile_blocks: ``torch.compile`` the blocks, again after each growth. On a GPU in bfloat16, where products of
            experts are one kernel.
        growth: Records of the growths in the model's past. Kept by the program, not written by users.
    """

    model: MoETransformer | TransformersModel | None

    def __init__(
        self,
        config: MoEConfig | None = None,
        init_from: str | None = None,
        init_checksums: str | None = None,
        backend: Backend = "auto",
        drop_mtp: bool = False,
        optimizer: OptimizerCallable | None = None,
        param_groups: list[dict[str, Any]] | None = None,
        reparam: dict[str, Any] | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        gradient_norm: Literal["total", "groups"] | None = None,
        spike_skip: SpikeSkip | None = None,
        balance_loss: float = 0.01,
        z_loss: float = 0.0,
        balance_rate: float = 1e-3,
        activation_checkpointing: bool = False,
        compile_blocks: bool = False,
        growth: list[dict[str, Any]] | None = None,
    ) -> None:
        for name, value in {"balance_loss": balance_loss, "z_loss": z_loss, "balance_rate": balance_rate}.items():
            if not 0 <= value < math.inf:
                raise ValueError(f"model.{name} must be a finite number and not negative, got {value}")
        if config and init_from:
            raise ValueError("model.config and model.init_from exclude each other: the checkpoint brings its shape")
        start = start_of(config, init_from, backend, init_checksums, drop_mtp)
        shape = start.shape if reparam is None else with_branches(start.shape, reparam)
        super().__init__(shape, [*start.growth, *(growth or [])])
        self.reparam = shape.to_dict()["reparam"] if reparam else None
        self._new_branches = shape != start.shape
        """Whether the run begins with branches that its checkpoint does not have."""
        self._source, self._checksums, self.hub = start.weights, start.checksums, start.hub
        self.optimizer, self.lr_scheduler = optimizer or default_optimizer, lr_scheduler
        self.param_groups = param_groups or []
        check_param_groups(self.param_groups)
        self.balance_loss, self.z_loss, self.balance_rate = balance_loss, z_loss, balance_rate
        self.activation_checkpointing, self.compile_blocks = activation_checkpointing, compile_blocks
        self.saved_optimizer: str | None = None
        """Name of the optimizer whose state a checkpoint brings, if one does."""
        self.saved_groups: list[dict[str, Any]] = []
        self.saved_schedule: dict[str, Any] | None = None
        self.losses: dict[str, float] = {}
        """The last of training and of validation that a checkpoint tells, for the card of an export."""
        if gradient_norm not in (None, "total", "groups"):
            raise ValueError(f"model.gradient_norm must be total or groups, or null, got {gradient_norm!r}")
        self.gradient_norm = gradient_norm
        self.spikes = SpikeWatch(spike_skip) if spike_skip else None
        self.skip: Tensor | None = None
        """One if the optimizer step at hand is skipped, zero if not."""
        self.watch = FiniteWatch(self._way_on)
        names = ("balance_loss", "z_loss", "balance_rate", "activation_checkpointing")
        self.save_hyperparameters({name: getattr(self, name) for name in names})

    @override
    def setup(self, stage: str) -> None:
        """Raises ``ValueError`` as :meth:`check_run` does, and for a damaged checkpoint to start from."""
        data = getattr(self.trainer, "datamodule", None)
        self.check_run(self.trainer, data, is_fit=stage == "fit")
        self._tell_of_length(getattr(data, "seq_len", 0))
        if self._source is not None:
            verify_start(self._checksums)

    def check_run(self, trainer: Trainer, data: Any, is_fit: bool) -> None:
        """Raises ``ValueError`` for a configuration whose parts do not fit each other, before anything is computed."""
        self.check_vocabulary(getattr(data, "vocab_size", 0))
        if self.spikes and getattr(trainer.precision_plugin, "scaler", None) is not None:
            raise ValueError(
                "model.spike_skip does not work with a scaler of gradients: set trainer.precision bf16-mixed"
            )
        if isinstance(self.shape, HubShape):
            self._check_transformers(self.shape, data)
        elif self.compile_blocks and not (
            trainer.precision in ("bf16-mixed", "bf16-true")
            and grouped.has_grouped_product(trainer.strategy.root_device, torch.bfloat16)
        ):
            raise ValueError(
                "model.compile_blocks needs a GPU and trainer.precision bf16-mixed or bf16-true: elsewhere the products"
                " of experts are a loop whose lengths change at every step"
            )
        callbacks = trainer.callbacks  # type: ignore[attr-defined]
        if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
            raise ValueError(
                "GradientAccumulationScheduler acts when an epoch begins; a run is one epoch, and resumed within it,"
                " it would go on without accumulation: set trainer.accumulate_grad_batches"
            )
        # Lightning has no such attribute where validation goes by the clock.
        every, window = getattr(trainer, "val_check_interval", None), trainer.accumulate_grad_batches
        if is_fit and every is None and window > 1:
            raise ValueError(
                "trainer.val_check_interval as a time may end within an optimizer step, where a checkpoint could not be"
                f" resumed exactly: give micro-batches, a multiple of trainer.accumulate_grad_batches {window}"
            )
        if is_fit and isinstance(every, int) and every % window:
            raise ValueError(
                f"trainer.val_check_interval {every} must be a multiple of trainer.accumulate_grad_batches {window}: "
                "a checkpoint from within an optimizer step could not be resumed exactly"
            )

    def _check_transformers(self, shape: HubShape, data: Any) -> None:
        """Raises ``ValueError`` for what a model of transformers cannot do here."""
        if self.compile_blocks:
            raise ValueError("model.compile_blocks is for this project's own model: leave it out for transformers")
        if getattr(data, "documents", "pack") == "mask" and (kind := shape.mixes_positions):
            raise ValueError(
                f"data.documents mask cannot keep documents apart in a {shape.config['model_type']} model, which has "
                f"{kind}: set data.documents pack"
            )

    def check_vocabulary(self, tokens: int) -> None:
        """Raises ``ValueError`` for a tokenizer of more tokens than the model has."""
        vocabulary = self.shape.size("V")
        if tokens > vocabulary:
            if self._source is not None:
                raise ValueError(
                    f"model.init_from has a vocabulary of {vocabulary}, and the tokenizer has {tokens} ids: "
                    "set data.tokenizer to the model's own"
                )
            raise ValueError(f"model.config.vocab_size {vocabulary} is smaller than the tokenizer's {tokens}: raise it")

    def _tell_of_length(self, seq_len: int) -> None:
        """Warn of samples longer than what the folder's model was made for.

        All families have rotary positions, or none: no table of them ends, but those beyond were never trained.
        """
        config = self.shape.config if isinstance(self.shape, HubShape) else (self.hub or {}).get("config", {})
        positions = config.get("max_position_embeddings") or seq_len
        if seq_len > positions:
            rank_zero_warn(
                f"data.seq_len {seq_len} is more than the folder's max_position_embeddings {positions}: the model has "
                "not seen positions beyond it, and its loss there may be high; lower data.seq_len, or raise the rotary "
                "base with an event's grow: [RotaryBase]"
            )

    # --- shape -------------------------------------------------------------------------------------------------------

    @property
    def config(self) -> MoEConfig:
        """Shape of the model as it is."""
        assert isinstance(self.shape, NativeModel)
        return self.shape.config

    @override
    def make_model(self) -> MoETransformer | TransformersModel:
        if isinstance(self.shape, HubShape):
            return TransformersModel(self.shape, self.activation_checkpointing)
        assert isinstance(self.shape, NativeModel)
        model = self.shape.prepared(MoETransformer(self.config, self.activation_checkpointing))
        if self.compile_blocks:
            torch.compiler.reset()  # graphs of a smaller model: they would count against the limit of graphs
            for block in model.layers:
                block.compile()
        return model

    @override
    def shape_of(self, values: dict[str, Any]) -> Shape:
        return shape_of(values)

    @override
    def initial_value(self, name: str, shape: torch.Size) -> Value | None:
        """From the checkpoint to start from, or drawn by name. What a subclass has added keeps its value."""
        if not name.startswith("model."):
            return None
        if self._new_branches and isinstance(self.shape, NativeModel):
            seed = torch.initial_seed()
            own = name.removeprefix("model.")
            return self.shape.initial_value(own, shape, lambda *of: whole(self._plain_value(*of)), seed)
        if self._source is None and isinstance(self.shape, HubShape):
            return super().initial_value(name, shape)
        return self._plain_value(name.removeprefix("model."), shape)

    def _plain_value(self, name: str, shape: torch.Size) -> Value:
        """By its name in the model."""
        if self._source is None:
            return initial_value(self.config, name, shape, torch.initial_seed())
        value = self._source[f"model.{name}"]
        if value.shape != shape:
            raise ValueError(
                f"model.init_from: model.{name} has shape {list(value.shape)}, and its config says {list(shape)}"
            )
        return value

    @override
    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_source": None}

    @override
    def set_shape(self, shape: Shape, growth: list[dict[str, Any]]) -> None:
        """Raises ``ValueError`` for a checkpoint that has other branches than ``reparam``, or none."""
        if self.reparam not in (None, saved := shape.to_dict().get("reparam")):
            raise ValueError(
                f"model.reparam is {self.reparam}, and the checkpoint was trained with {saved or 'no branches'}: to "
                "begin with branches start from its weights with model.init_from; otherwise leave model.reparam out"
            )
        self._source = None
        if self.spikes:
            self.spikes.begin_anew()
        super().set_shape(shape, growth)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.note_saved(checkpoint)
        self.hub = checkpoint.get("hub")
        self.losses = dict(checkpoint.get("losses", {}))
        if self.spikes and "spikes" in checkpoint:
            self.spikes.load_state_dict(checkpoint["spikes"])

    def note_saved(self, checkpoint: Mapping[str, Any]) -> None:
        """Keep in mind what a checkpoint's optimizer and schedule are, for when this run's own are made."""
        self.saved_optimizer, self.saved_groups = checkpoint.get("optimizer"), saved_groups(checkpoint)
        self.saved_schedule = next(iter(checkpoint.get("lr_schedulers", [])), None)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.watch.check(wait=True)
        check_weights(self.parameters(), self.trainer.global_step, self._way_on)
        super().on_save_checkpoint(checkpoint)
        if self.hub:
            checkpoint["hub"] = self.hub
        for kind, key in (("training", "loss/train"), ("validation", "loss/val")):
            if (loss := self.trainer.callback_metrics.get(key)) is not None:
                self.losses[kind] = float(loss)
        checkpoint["losses"] = dict(self.losses)
        if self.spikes:
            checkpoint["spikes"] = self.spikes.state_dict()
        if checkpoint.get("optimizer_states"):
            checkpoint["optimizer"] = type(self.trainer.optimizers[0]).__name__

    # --- training ----------------------------------------------------------------------------------------------------

    @override
    def next_token_loss(self, batch: Batch) -> tuple[Tensor, Routing | None]:
        """Mean cross-entropy in nats per label, and how the tokens were routed."""
        assert self.model is not None
        return self.model(batch["input_ids"], labels_BS=batch["labels"], documents_BS=batch.get("documents"))

    def _share_of_step(self, batch: Batch) -> Tensor | float:
        """What this batch's labels are of those of the optimizer step, times its batches on all processes."""
        if "label_count" not in batch:
            return 1.0
        batches = self.trainer.world_size * self.trainer.accumulate_grad_batches
        return (batch["labels"] != LEFT_OUT).sum() * batches / _sum_over_processes(batch["label_count"]).clamp(min=1)

    def _own_random_numbers(self) -> AbstractContextManager[None]:
        """Dropout and noisy routers of transformers draw by the batch's place in the run, so that a resume does too."""
        if not isinstance(self.shape, HubShape):
            return nullcontext()  # our own model draws nothing
        place = self.samples_seen, self._pending_samples, self.global_rank
        return seeded(self.device, torch.initial_seed(), *place)

    @override
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        with self._own_random_numbers():
            ce, routing = self.next_token_loss(batch)
        ce = ce * self._share_of_step(batch)
        loss, values = ce, {"loss/train": ce.detach()}
        if routing:
            counts_LE = _sum_over_processes(routing.counts_E)
            balance, z = balance_loss(counts_LE, routing.scores_E), routing.z.mean()
            loss = ce + self.balance_loss * balance + self.z_loss * z
            values |= {"loss/balance": balance.detach(), "loss/router_z": z.detach()}
            self.counts_LE = counts_LE if self.counts_LE is None else self.counts_LE + counts_LE
        stacked = torch.stack([*values.values(), loss.detach()])
        *means, total = _sum_over_processes(stacked) / self.trainer.world_size
        values = dict(zip(values, means, strict=True))
        self.watch.add_loss(total)
        self.step_losses.append(values["loss/train"])
        self.step_values |= values
        self.count(len(batch["input_ids"]), batch["input_ids"].numel())
        return loss

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.counts_LE is not None:
            self._balance(self.counts_LE)

    @torch.no_grad()
    def _balance(self, counts_LE: Tensor) -> None:
        """Nudge the balancing biases towards experts that got less than their share (Wang et al. 2024)."""
        assert self.model is not None
        for bias, counts_E in zip(self.model.balance_biases(), counts_LE, strict=True):
            if bias is not None:
                nudge_E = self.balance_rate * (counts_E.mean() - counts_E).sign()
                bias += nudge_E if self.skip is None else nudge_E * (1 - self.skip)

    @override
    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        self.watch.check(wait=False)

    @override
    def configure_optimizers(self) -> OptimizerLRScheduler:
        with torch.device("meta"):  # a sharded parameter may be a flat slice, which does not tell its dimensions
            whole = dict(self.make_model().named_parameters(prefix="model"))
        named = ((named_state.clean_name(name), p) for name, p in self.named_parameters())
        optimizer = self.make_optimizer(named, whole)
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

    def make_optimizer(self, named: Iterable[tuple[str, Tensor]], whole: Mapping[str, Tensor]) -> Optimizer:
        """The optimizer of these parameters, in groups; ``whole`` has those of the model undivided."""
        groups = parameter_groups(named, whole, self.shape.naming, self.param_groups)
        try:
            optimizer = self.optimizer(groups)
        except ValueError as error:  # torch names no key
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

    def _way_on(self) -> str:
        finish_saves(self.trainer)
        found = checkpoints_of(self.trainer)
        return f"go on from {found[0]}, --ckpt_path last," if found else "begin anew"

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


def _sum_over_processes(values: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def balance_loss(counts_LE: Tensor, scores_LE: Tensor) -> Tensor:
    """Switch load-balancing loss E·Σ f·P, mean over layers; one when the load is even (Fedus et al. 2022, eq. 4).

    ``counts_LE`` are the tokens of the global batch that each expert got, ``scores_LE`` the mean router scores, which
    carry the gradient. f is normalised by the number of assignments, so that duplicating experts changes nothing.
    """
    fractions_LE = counts_LE / counts_LE.sum(-1, keepdim=True)
    return counts_LE.shape[-1] * (fractions_LE * scores_LE).sum(-1).mean()
