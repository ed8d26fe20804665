"""Magnitude pruning: single weights that are set to zero over a stretch of the run, and held there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from lit_recycle.callbacks.growth import GrowthCallback
from lit_recycle.checkpoints.sharded import MASKS
from lit_recycle.data.batches import Batch
from lit_recycle.data.pace import micro_batches_of, pace_of
from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.masks import Masks, apply_masks, grow_masks, is_prunable, pruned
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.schedule import Progress, Stage, stages
from lit_recycle.growth.shards import like_sharded
from lit_recycle.training import named_state
from lit_recycle.training.growable import GrowableModule


class MagnitudePruning(L.Callback):
    """Prunes the smallest weights of each matrix, more and more of them, and holds them at zero.

    Unstructured, as in *The Journey Matters* (Jin et al., arXiv 2501.12486): from 25 % to 75 % of the run's FLOPs the
    share of pruned weights rises from 0 to ``sparsity``. Every matrix of the layers is pruned alike, each expert's on
    its own; embeddings, the output layer, norms, biases and routers are not. Right after each step of the optimizer
    what is pruned is set to zero again: so with any optimizer, momentum and weight decay. At a growth copies are pruned
    where their source was.

    Args:
        sparsity: Share of the weights of a matrix that is pruned in the end.
        begin: Where it begins, as a share of the run's FLOPs.
        end: Where it has reached ``sparsity``.
        schedule: ``cubic``, fast at first (Zhu & Gupta 2017, arXiv 1710.01878), or ``linear``.
        every_n_steps: Optimizer steps between two choices of what is pruned.
        pattern: Prune only parameters in whose name this regular expression is found.

    Raises:
        ValueError: For values out of range, under FSDP1, and for a pattern that is found in no name.

    Example::

        >>> from lit_recycle.callbacks import MagnitudePruning
        >>> pruning = MagnitudePruning(sparsity=0.5)
    """

    def __init__(
        self,
        sparsity: float,
        begin: float = 0.25,
        end: float = 0.75,
        schedule: Literal["cubic", "linear"] = "cubic",
        every_n_steps: int = 100,
        pattern: str | None = None,
    ) -> None:
        if not 0 < sparsity < 1:
            raise ValueError(f"MagnitudePruning.sparsity is a share of weights between 0 and 1, got {sparsity}")
        if not 0 <= begin < end <= 1:
            raise ValueError(f"MagnitudePruning: 0 <= begin < end <= 1, as shares of the run, got {begin} and {end}")
        if schedule not in ("cubic", "linear"):
            raise ValueError(f"MagnitudePruning.schedule must be cubic or linear, got {schedule!r}")
        if every_n_steps < 1:
            raise ValueError(f"MagnitudePruning.every_n_steps must be at least 1, got {every_n_steps}")
        self.sparsity, self.begin, self.end, self.schedule = sparsity, begin, end, schedule
        self.every_n_steps = every_n_steps
        try:
            self.pattern = re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"MagnitudePruning.pattern {pattern!r} is no regular expression: {error}") from None
        self.masks: Masks = {}
        self._total = 0
        self._held: dict[str, int] = {}

    def share_at(self, flops: int) -> float:
        """Share of weights that is to be pruned after so many FLOPs of the run."""
        done = (flops / self._total - self.begin) / (self.end - self.begin)
        done = min(max(done, 0.0), 1.0)
        return self.sparsity * (done if self.schedule == "linear" else 1 - (1 - done) ** 3)

    # --- in a run ----------------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage == "fit" and isinstance(trainer.strategy, FSDPStrategy):
            raise ValueError(
                "MagnitudePruning ranks the weights of whole matrices, and FSDP1 holds flat slices of them: set "
                "trainer.strategy to fsdp2, auto or ddp"
            )

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._watch(trainer, pl_module)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        parameters = named_state.parameters(pl_module)
        if not any(self._prunes(pl_module, name, p) for name, p in parameters.items()):
            raise ValueError(f"MagnitudePruning.pattern {self.pattern.pattern!r} is found in no matrix of the layers")
        self.masks = {name: named_state.like(parameters[name], mask) for name, mask in self.masks.items()}
        planned = self._stages(trainer, pl_module)
        self._total = planned[-1].end.flops
        self._check_last_choice(planned, pl_module.progress)
        self._count()

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: GrowableModule, batch: Batch, batch_idx: int) -> None:
        step = trainer.global_step
        if batch_idx % trainer.accumulate_grad_batches or step % self.every_n_steps:
            return
        if share := self.share_at(pl_module.progress.flops):
            for name, parameter in named_state.parameters(pl_module).items():
                if self._prunes(pl_module, name, parameter):
                    place = pl_module.shape.naming.parse(name)
                    self.masks[name] = pruned(place, parameter.detach(), self.masks.get(name), share)
            self._count()
            self._apply(pl_module)

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: GrowableModule, optimizer: Optimizer) -> None:
        pl_module.log_dict(self._scalars(pl_module))

    def grow_masks(self, trainer: L.Trainer, module: GrowableModule, plan: GrowthPlan) -> None:
        """See :class:`lit_recycle.training.masks.HoldsMasks`."""
        grown, parameters = grow_masks(plan, self.masks), named_state.parameters(module)
        self.masks = {name: like_sharded(mask, parameters[name]) for name, mask in grown.items()}
        self._watch(trainer, module)
        self._count()
        self._apply(module)

    def _prunes(self, module: GrowableModule, name: str, parameter: Tensor) -> bool:
        return is_prunable(module.shape.naming.parse(name), parameter.shape) and bool(self.pattern.search(name))

    def _watch(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """Set what is pruned to zero after each step of the optimizer."""
        trainer.optimizers[0].register_step_post_hook(lambda *_: self._apply(module))

    def _apply(self, module: GrowableModule) -> None:
        apply_masks({name: p.detach() for name, p in named_state.parameters(module).items()}, self.masks)

    def _check_last_choice(self, planned: Sequence[Stage], now: Progress) -> None:
        """Raises ``ValueError`` where no choice falls between the moment of the whole sparsity and the run's end."""
        whole = self.end * self._total
        if now.flops >= whole:
            return
        step = next(stage for stage in planned if whole <= stage.end.flops).step_at(whole)
        steps, every = planned[-1].end.steps, self.every_n_steps
        if -(-step // every) * every >= steps:
            raise ValueError(
                f"MagnitudePruning.every_n_steps {every}: no choice falls between step {step}, from which the sparsity "
                f"is {self.sparsity}, and the end of the run at {steps}: lower it, or end"
            )

    def _stages(self, trainer: L.Trainer, module: GrowableModule) -> list[Stage]:
        growth = next((c for c in trainer.callbacks if isinstance(c, GrowthCallback)), None)  # type: ignore[attr-defined]
        if growth is not None:
            return growth.stages(trainer, module)
        pace = pace_of(trainer, trainer.datamodule)  # type: ignore[attr-defined]
        at: Any = {"start": module.progress, "micro_batches": micro_batches_of(trainer)}
        return stages(module.shape, [], pace=pace, max_steps=trainer.max_steps, **at)

    # --- numbers -----------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        """How many weights of each tensor are pruned."""
        self._held = {name: int(named_state.whole(mask.sum(dtype=torch.int64))) for name, mask in self.masks.items()}

    def _scalars(self, module: GrowableModule) -> dict[str, float]:
        naming, shape = module.shape.naming, module.shape
        sizes = {n: p.numel() for n, p in named_state.parameters(module).items() if self._prunes(module, n, p)}
        active = 0.0
        for name, count in self._held.items():
            place = naming.parse(name)
            active += count * (shape.top_k / shape.size(EXPERTS, place.layer) if place.is_routed else 1.0)
        return {
            "sparsity/share": sum(self._held.values()) / sum(sizes.values()),
            "sparsity/nonzero_params": float(shape.num_params() - sum(self._held.values())),
            "sparsity/nonzero_active_params": shape.num_active_params() - active,
        }

    # --- checkpoints -------------------------------------------------------------------------------------------------

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: GrowableModule, checkpoint: dict[str, Any]) -> None:
        if self.masks:
            checkpoint[MASKS] = dict(self.masks)

    @override
    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: GrowableModule, checkpoint: dict[str, Any]) -> None:
        self.masks = dict(checkpoint.get(MASKS, {}))
