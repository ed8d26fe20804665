"""Growable modules: what a growth asks of a LightningModule and its data, and a base class that answers it.

Axes: L MoE layers, E experts.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, Protocol, Self, runtime_checkable

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from lit_recycle.growth.schedule import Progress
from lit_recycle.growth.shape import Shape
from lit_recycle.hub.joined import Value
from lit_recycle.training import named_state
from lit_recycle.training.averages import begin_averages, refuse_averages, reshard_for_averages, take_trained_weights
from lit_recycle.training.masks import leave_masks
from lit_recycle.training.rewarm import unwarm


class Growable(Protocol):
    """A LightningModule that can grow in a run. :class:`GrowableModule` is a base class that does it all."""

    shape: Shape
    """The model as it is."""
    growth: list[dict[str, Any]]
    """Records of its growths; a checkpoint must keep them beside the shape."""
    model: nn.Module | None
    """What grows."""

    @property
    def progress(self) -> Progress:
        """How far the run is; equal on all processes, and changed only by a whole optimizer step."""

    def build(self) -> nn.Module:
        """Make ``model`` anew, of the present shape, on the present device; its values do not matter."""

    def set_shape(self, shape: Shape, growth: list[dict[str, Any]]) -> None:
        """Take on another shape and history."""


class GrowableData(Protocol):
    """A data module whose tokens are counted."""

    seq_len: int
    """Tokens per sample, at full length."""
    tokens_per_batch: int
    """Tokens of a batch of one process, at full length."""


def check_growable(module: object, data: object) -> None:
    """Raises ``ValueError`` that names what a module or a data module lacks of the two protocols."""
    kept = ("shape", "growth", "progress", "build", "set_shape")
    for what, thing, names in (
        ("module", module, kept),
        ("data module", data, ("seq_len", "tokens_per_batch")),
    ):
        if thing is None:
            raise ValueError(f"GrowthCallback counts tokens by the {what}, and there is none: give fit a datamodule")
        if lacking := [name for name in names if not hasattr(thing, name)]:
            raise ValueError(
                f"GrowthCallback cannot grow with the {what} {type(thing).__name__}, which has no "
                f"{', '.join(lacking)}: see docs/grow-your-own-module.md"
            )


@runtime_checkable
class ShardingStrategy(Protocol):
    """A strategy that shards a model which is built on the meta device."""

    wraps_late: bool
    """Whether it wraps the whole module when it is set up, so that weights can only be given afterwards."""

    def shard(self, module: GrowableModule) -> None:
        """Shard a module's model that is on the meta device, and stays there."""

    def allocate(self, model: nn.Module) -> None:
        """Give a sharded model memory, uninitialised."""


COUNTERS = ("samples_seen", "tokens_seen", "flops_spent")


class GrowableModule(L.LightningModule):
    """A LightningModule that knows its shape, builds itself for another one, and counts how far the run is.

    A subclass writes :meth:`make_model`, calls :meth:`count` in its ``training_step``, and returns the loss from its
    ``validation_step``. The model must be reached as ``self.model`` only.

    Args:
        shape: The model at the start of the run; a checkpoint that is resumed brings its own.
        growth: Records of the growths in its past.
    """

    def __init__(self, shape: Shape, growth: list[dict[str, Any]] | None = None) -> None:
        super().__init__()
        self.shape, self.growth = shape, list(growth or [])
        self.model: nn.Module | None = None
        self.dims: dict[str, int] = {}
        """How many dimensions each parameter of the model has: in a strategy's hands it may be a flat slice."""
        self.samples_seen = self.tokens_seen = self.flops_spent = 0
        self._pending_samples = self._pending_tokens = 0
        self._last_batch = (0, 0)
        self._drawn: Mapping[str, Tensor] | None = None
        self.counts_LE: Tensor | None = None
        """Tokens that each expert got in the optimizer step at hand, over all processes; None where nobody counts."""
        self.shapes_to_come: list[Shape] = []
        """Those that growths of the run will give the model, once they are known."""
        self.step_losses: list[Tensor] = []
        """Cross-entropy of each micro-batch of the optimizer step at hand, mean over all processes; on the device."""
        self.step_values: dict[str, Tensor] = {}
        """What else is known of the optimizer step at hand, by tag. It is logged at the steps that Lightning writes:
        ``self.log`` at every step costs a small model per cents of its speed."""
        self.save_hyperparameters({"config": shape.to_dict(), "growth": self.growth})

    # --- shape -------------------------------------------------------------------------------------------------------

    def make_model(self) -> nn.Module:
        """A new model of the present shape, on the present device (``meta``, too)."""
        raise NotImplementedError(f"{type(self).__name__}.make_model must give a model of the shape self.shape")

    def shape_of(self, values: dict[str, Any]) -> Shape:
        """The shape that :meth:`Shape.to_dict` has given these values for."""
        return type(self.shape)(**values)

    def initial_value(self, name: str, shape: torch.Size) -> Value | None:
        """A parameter or buffer at the start of a run, whole, the same on all processes; None for what stays as it is.

        Here it is what :meth:`make_model` gives it, for which each process makes the whole model once.
        """
        if not name.startswith("model."):
            return None
        if self._drawn is None:
            with torch.random.fork_rng(devices=[]), torch.device("cpu"):
                torch.manual_seed(torch.initial_seed())
                self._drawn = self.make_model().state_dict()
        return self._drawn[name.removeprefix("model.")]

    def build(self) -> nn.Module:
        """A new model of the present shape, weights not yet drawn."""
        self.model = self.make_model()
        self.dims = {name: parameter.dim() for name, parameter in self.model.named_parameters(prefix="model")}
        return self.model

    @override
    def configure_callbacks(self) -> list[L.Callback]:
        """None of its own; it is here that callbacks which cannot work are refused, before the first is set up."""
        refuse_averages(self.trainer)
        return []

    @override
    def configure_model(self) -> None:
        if self.model is not None:
            return
        strategy = self.trainer.strategy if self._trainer is not None else None
        if isinstance(strategy, ShardingStrategy):
            with torch.device("meta"):
                model = self.build()
            if strategy.wraps_late:
                return
            strategy.shard(self)
            strategy.allocate(model)
        else:
            self.build()
        named_state.set_weights(self, self.initial_value)

    def set_shape(self, shape: Shape, growth: list[dict[str, Any]]) -> None:
        """Take on another shape and history. The module is built anew when Lightning configures the model."""
        if shape != self.shape:
            self.model = self.counts_LE = None
        self.shape, self.growth, self._drawn = shape, growth, None
        self.hparams.update(config=shape.to_dict(), growth=growth)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint.get("hyper_parameters", {})
        if "config" not in saved or "progress" not in checkpoint:
            raise ValueError(
                "this checkpoint was not written by lit-recycle (it holds no model config): "
                "bring a Hugging Face model in with `lit-recycle import`"
            )
        built = self.model
        self.set_shape(self.shape_of(saved["config"]), list(saved["growth"]))
        if built is not None and self.model is not built:
            self.configure_model()
            if self._trainer is not None:
                begin_averages(self.trainer, self)
        if self._trainer is not None:
            take_trained_weights(self.trainer, checkpoint)
            leave_masks(self.trainer, checkpoint)
        for name in COUNTERS:
            setattr(self, name, checkpoint["progress"][name])

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["progress"] = {name: getattr(self, name) for name in COUNTERS}

    @override
    def on_fit_start(self) -> None:
        self._drawn = None  # the weights are given now

    @override
    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        reshard_for_averages(self.trainer, self)

    def __getstate__(self) -> dict[str, Any]:
        """A copy, as averages of weights begin with, has its values already."""
        return super().__getstate__() | {"_drawn": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy; one of a sharded module has tensors of its own, sharded likewise, but cannot be trained."""
        copied = memo[id(self)] = type(self).__new__(type(self))
        model, sharded = self.model, any(isinstance(p, DTensor) for p in self.parameters())
        weights = {name: tensor.clone() for name, tensor in named_state.weights(self).items()} if sharded else {}
        self.model = None if sharded else model  # FSDP2 lets no module of its own be copied
        try:
            copied.__setstate__(deepcopy(self.__getstate__(), memo))
        finally:
            self.model = model
        if sharded:
            with torch.device("meta"):
                copied.build()
            copied.load_state_dict(weights, assign=True)
            named_state.tie(copied, named_state.tied(self))
        return copied

    # --- progress ----------------------------------------------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """How far the run is; equal on all processes, and changed only by a whole optimizer step."""
        return Progress(self.trainer.global_step, self.tokens_seen, self.flops_spent)

    @property
    def flops_per_batch(self) -> int:
        """Training FLOPs of this process's last micro-batch, for Lightning's ThroughputMonitor."""
        samples, tokens = self._last_batch
        return tokens * self.shape.num_flops_per_token(tokens // max(samples, 1))

    def count(self, samples: int, tokens: int) -> None:
        """A batch of the step at hand has so many samples and tokens in this process; others have as many."""
        self._last_batch = (samples, tokens)
        self._pending_samples += samples * self.trainer.world_size
        self._pending_tokens += tokens * self.trainer.world_size

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        if batch_idx % self.trainer.accumulate_grad_batches == 0:
            self._pending_samples = self._pending_tokens = 0
            self.counts_LE, self.step_losses, self.step_values = None, [], {}

    @override
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps, then counts: whatever ends a run between two steps leaves counters that fit the weights."""
        super().optimizer_step(*args, **kwargs)
        for optimizer in self.trainer.optimizers:
            unwarm(optimizer.param_groups)  # a scaler of gradients may have left out the step, and with it its hooks
        seq_len = self._pending_tokens // max(self._pending_samples, 1)
        self.flops_spent += self._pending_tokens * self.shape.num_flops_per_token(seq_len)
        self.tokens_seen += self._pending_tokens
        self.samples_seen += self._pending_samples
        self._pending_samples = self._pending_tokens = 0
        step, every = self.trainer.global_step + 1, self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step % every == 0:
            self._log_step()

    @override
    def on_train_batch_end(self, *args: Any) -> None:
        if self.trainer.should_stop:  # a callback has just ended the run, and Lightning writes its last step too
            self._log_step()

    def _log_step(self) -> None:
        self.log_dict(self.step_values)
        if "loss/train" in self.step_values:
            self.log("loss", self.step_values["loss/train"], prog_bar=True, logger=False)
