"""LitMoE: the Mixture-of-Experts transformer as a LightningModule that can change its shape during a run.

Axes: L MoE layers, E experts.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from typing_extensions import override

from lit_recycle.data.batches import Batch
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.shape import Shape
from lit_recycle.hub.joined import Value, whole
from lit_recycle.hub.shape import HubShape, shape_of, with_branches
from lit_recycle.hub.transformers_model import TransformersModel
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.experts import Routing
from lit_recycle.model.kernels.loss import LEFT_OUT
from lit_recycle.model.loss import balance_loss
from lit_recycle.model.transformer import MoETransformer, initial_value
from lit_recycle.seeding import seeded
from lit_recycle.training.optimized import OptimizedModule
from lit_recycle.training.run_checks import check_run, tell_of_length
from lit_recycle.training.spikes import SpikeSkip
from lit_recycle.training.start import Backend, start_of, verify_start


class LitMoE(OptimizedModule):
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
        optimizer: Takes parameter groups and gives the optimizer; vectors are in a group without weight decay. AdamW
            (fused) at a rate of 1e-3 when not given.
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
        super().__init__(
            shape,
            [*start.growth, *(growth or [])],
            optimizer=optimizer,
            param_groups=param_groups,
            lr_scheduler=lr_scheduler,
            gradient_norm=gradient_norm,
            spike_skip=spike_skip,
        )
        self.reparam = shape.to_dict()["reparam"] if reparam else None
        self._new_branches = shape != start.shape
        """Whether the run begins with branches that its checkpoint does not have."""
        self._source, self._checksums, self.hub = start.weights, start.checksums, start.hub
        self.balance_loss, self.z_loss, self.balance_rate = balance_loss, z_loss, balance_rate
        self.activation_checkpointing, self.compile_blocks = activation_checkpointing, compile_blocks
        self.losses: dict[str, float] = {}
        """The last of training and of validation that a checkpoint tells, for the card of an export."""
        names = ("balance_loss", "z_loss", "balance_rate", "activation_checkpointing")
        self.save_hyperparameters({name: getattr(self, name) for name in names})

    @override
    def setup(self, stage: str) -> None:
        """Raises ``ValueError`` as :func:`check_run` does, and for a damaged checkpoint to start from."""
        data = getattr(self.trainer, "datamodule", None)
        check_run(self, self.trainer, data, is_fit=stage == "fit")
        tell_of_length(self, getattr(data, "seq_len", 0))
        if self._source is not None:
            verify_start(self._checksums)

    @property
    def starts_from_weights(self) -> bool:
        """Whether the weights to begin with are those of ``init_from``, and were not taken yet."""
        return self._source is not None

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
        super().set_shape(shape, growth)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.hub = checkpoint.get("hub")
        self.losses = dict(checkpoint.get("losses", {}))

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if self.hub:
            checkpoint["hub"] = self.hub
        for kind, key in (("training", "loss/train"), ("validation", "loss/val")):
            if (loss := self.trainer.callback_metrics.get(key)) is not None:
                self.losses[kind] = float(loss)
        checkpoint["losses"] = dict(self.losses)

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


def _sum_over_processes(values: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values
