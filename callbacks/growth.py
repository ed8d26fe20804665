"""Growth callback: grows the model during training."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim import Optimizer
from typing_extensions import override

from lit_recycle.callbacks.monitor import GrowthHooks
from lit_recycle.checkpoints.native import checkpoint_folder
from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.event import GrowthEvent, Rewarm
from lit_recycle.growth.facts import Facts
from lit_recycle.growth.history import GrowthRecord
from lit_recycle.growth.measure import norms, weight_facts
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.plan import GrowthPlan, plan_growth
from lit_recycle.growth.schedule import Stage, is_due, stages
from lit_recycle.model.config import MoEConfig
from lit_recycle.text import human
from lit_recycle.training import named_state
from lit_recycle.training.module import Batch, LitMoE
from lit_recycle.training.regrow import check_growable, grow_in_run, refuse_incompatible
from lit_recycle.training.utility import GRADIENTS, ExpertUtility

WIDTHS = {
    "hidden_size": "hidden size",
    "num_heads": "query heads",
    "num_kv_heads": "key heads",
    "expert_size": "expert width",
    "shared_expert_size": "shared width",
    "dense_size": "dense width",
}
"""What is told of a growth where it has changed, by keys of the config."""


class GrowthCallback(L.Callback):
    """Expands the model at configured moments of a run that goes on.

    An event fires at the start of the first batch at which its trigger holds. After the batch before, a checkpoint of
    the small model is saved: the anchor. What has grown is recorded in the module's hyperparameters, so that a
    resumed run never needs to be told, and no event is applied twice.

    Args:
        events: The growths, in order of time.
        dirpath: Folder of the anchor checkpoints; ``checkpoints`` in the trainer's root folder when not given.
        save_anchor: Save a checkpoint before each event.
        seed: Seed of all that is random.
        utility_steps: Number of steps before an event over which load and gradients of experts are averaged, for
            operators that choose by them.

    Example::

        >>> from lit_recycle.callbacks import GrowthCallback
        >>> from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
        >>> growth = GrowthCallback([
        ...     GrowthEvent(at=Trigger(steps=400), depth=Depth(factor=2)),
        ...     GrowthEvent(at=Trigger(steps=800), width=Width(factor=2, noise=0.01)),
        ... ])
    """

    def __init__(
        self,
        events: list[GrowthEvent],
        dirpath: str | None = None,
        save_anchor: bool = True,
        seed: int = 0,
        utility_steps: int = 10,
    ) -> None:
        if utility_steps < 1:
            raise ValueError(f"GrowthCallback.utility_steps must be at least 1, got {utility_steps}")
        if not events:
            raise ValueError("GrowthCallback.events is empty: list at least one growth, or leave the callback out")
        self.events: Sequence[GrowthEvent] = tuple(events)
        self._written = [event.to_dict() for event in events]  # asked for several times in each step
        self.dirpath, self.save_anchor, self.seed = dirpath, save_anchor, seed
        self.utility, self._checked = ExpertUtility(utility_steps), False

    @override
    def state_dict(self) -> dict[str, Any]:
        return self.utility.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.utility.load_state_dict(state_dict)

    # --- before training ---------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not isinstance(pl_module, LitMoE):
            raise ValueError(f"GrowthCallback grows a LitMoE, not a {type(pl_module).__name__}")
        refuse_incompatible(trainer)

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: LitMoE) -> None:
        hook_rewarm(trainer, pl_module)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: LitMoE) -> None:
        self.stages(trainer, pl_module)

    def stages(self, trainer: L.Trainer, module: LitMoE) -> list[Stage]:
        """What is left of the run, the present stage first.

        Raises:
            ValueError: For events out of order, in the past, or after the end of the run.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        return stages(
            module.config,
            [] if trainer.fast_dev_run else self._open_events(module),  # type: ignore[attr-defined]  # it ends before they come
            seq_len=data.seq_len,
            tokens_per_step=data.tokens_per_batch * trainer.world_size * trainer.accumulate_grad_batches,
            max_steps=trainer.max_steps,
            start=module.progress,
            seed=self.seed,
            first_event=len(module.growth),
        )

    def _open_events(self, module: LitMoE) -> list[GrowthEvent]:
        """The configured events that the model has not been through, matched by what they say."""
        past = [record["event"] for record in module.growth]
        open_events = []
        for event, written in zip(self.events, self._written, strict=True):
            if written in past:
                past.remove(written)
            else:
                open_events.append(event)
        return open_events

    # --- in training -------------------------------------------------------------------------------------------------

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: LitMoE, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        whole_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if whole_step:
            self._check_optimizer(trainer, pl_module)
            if "load" in self.utility.wanted(self._open_events(pl_module)):
                self.utility.observe_load(pl_module)
        if self.save_anchor and whole_step and trainer.global_step < trainer.max_steps and self._due(pl_module):
            path = checkpoint_folder(trainer, self.dirpath) / f"anchor-step={trainer.global_step}.ckpt"
            trainer.save_checkpoint(path, weights_only=False)

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: LitMoE, batch: Batch, batch_idx: int) -> None:
        if batch_idx % trainer.accumulate_grad_batches:
            return
        while event := self._due(pl_module):
            self._grow(trainer, pl_module, event, batch)

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: LitMoE, optimizer: Optimizer) -> None:
        if set(GRADIENTS) & self.utility.wanted(self._open_events(pl_module)):
            self.utility.observe_gradients(pl_module)

    def _check_optimizer(self, trainer: L.Trainer, module: LitMoE) -> None:
        """After the first step, when its state is there: not at an event that is weeks away."""
        if self._checked:
            return
        events = [event for event in self._open_events(module) if event.optimizer_state != "reset"]
        if events:
            operators = [operator for event in events for operator in event.operators]
            check_growable(module, trainer.optimizers[0], divides=any(op.axes != "layers" for op in operators))
        self._checked = True

    def _due(self, module: LitMoE) -> GrowthEvent | None:
        event = next(iter(self._open_events(module)), None)
        return event if event and is_due(event.at, module.progress, module.config) else None

    def _grow(self, trainer: L.Trainer, module: LitMoE, event: GrowthEvent, batch: Batch) -> None:
        for observer in _observers(trainer):
            observer.on_growth_start(trainer, module, event)
        progress, loss_before = module.progress, _loss(trainer, module, batch)
        started = time.perf_counter()
        plan = self._plan(trainer, module, event)
        grow_in_run(trainer, module, plan, event.optimizer_state)
        hook_rewarm(trainer, module)
        seconds = time.perf_counter() - started
        losses = (loss_before, _loss(trainer, module, batch))
        record = GrowthRecord.of(event, progress, plan, losses)
        module.set_shape(module.config, [*module.growth, record.to_dict()])
        self.utility.clear()
        _log(trainer, record, seconds)
        for observer in _observers(trainer):
            observer.on_growth_end(trainer, module, module.growth[-1])

    def _plan(self, trainer: L.Trainer, module: LitMoE, event: GrowthEvent) -> GrowthPlan:
        def facts(model: GrowableModel) -> Facts:
            assert trainer.model is not None
            weights = named_state.weights(trainer.model)
            return weight_facts(model, weights, self.utility.facts(lambda: norms(model, weights, EXPERTS)))

        model = NativeModel(module.config)
        return plan_growth(model, event.operators, seed=self.seed, event=len(module.growth), facts=facts)


def _observers(trainer: L.Trainer) -> list[GrowthHooks]:
    return [callback for callback in trainer.callbacks if isinstance(callback, GrowthHooks)]  # type: ignore[attr-defined]


def hook_rewarm(trainer: L.Trainer, module: LitMoE) -> None:
    """Let each optimizer step use the scheduled rate times the re-warm factors of past growths.

    The rate is put back after the step, because a schedule may compute the next rate from the present one. An optimizer
    whose step calls that of its base class runs the hooks twice, one pair within the other: the inner one counts.
    """

    def warm(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            if "scheduled_lr" not in group:
                group["scheduled_lr"], group["lr"] = group["lr"], group["lr"] * rewarm_factor(module)

    def restore(optimizer: Optimizer, *_: Any) -> None:
        for group in optimizer.param_groups:
            group["lr"] = group.pop("scheduled_lr", group["lr"])

    for optimizer in trainer.optimizers:
        optimizer.register_step_pre_hook(warm)
        optimizer.register_step_post_hook(restore)


def rewarm_factor(module: LitMoE) -> float:
    """Product of the re-warm factors of all growths so far, at the module's present step."""
    factor = 1.0
    for record in module.growth:
        if rewarm := record["event"]["rewarm"]:
            factor *= Rewarm(**rewarm).factor(module.trainer.global_step - record["steps"])
    return factor


@torch.no_grad()
def _loss(trainer: L.Trainer, module: LitMoE, batch: Batch) -> float:
    """Loss on a batch, mean over all processes, in evaluation mode and through the strategy's own wrapping."""
    module.eval()
    module.val_metrics.reset()
    trainer.strategy.validation_step(batch, 0)
    loss = module.val_metrics.compute()["loss"].item()
    module.val_metrics.reset()
    module.train()
    return loss


def _log(trainer: L.Trainer, record: GrowthRecord, seconds: float) -> None:
    after = MoEConfig.from_dict(record.after)
    assert record.loss_before is not None and record.loss_after is not None
    values: dict[str, float] = {
        "loss_before": record.loss_before,
        "loss_after": record.loss_after,
        "loss_jump": record.loss_after - record.loss_before,
        "params": after.num_params(),
        "active_params": after.num_active_params(),
        "layers": after.num_layers,
        "experts": after.num_experts,
        "seconds": seconds,
    }
    for logger in trainer.loggers:
        logger.log_metrics({f"growth/{name}": value for name, value in values.items()}, step=record.steps)
        if isinstance(logger, TensorBoardLogger):
            text = f"```json\n{json.dumps(record.to_dict(), indent=2)}\n```"  # `lit-recycle report` reads it
            logger.experiment.add_text("growth/record", text, record.steps)
            logger.experiment.add_text("growth/event", f"```\n{announcement(record, seconds)}\n```", record.steps)
    trainer.print(announcement(record, seconds))


def announcement(record: GrowthRecord, seconds: float) -> str:
    """A growth in a few lines: what it was, and the model before → after."""
    before, after = MoEConfig.from_dict(record.before), MoEConfig.from_dict(record.after)
    rows = {
        "layers": (str(before.num_layers), str(after.num_layers)),
        "experts (top-k)": (f"{before.num_experts} ({before.top_k})", f"{after.num_experts} ({after.top_k})"),
        **{
            name: (str(record.before[key]), str(record.after[key]))
            for key, name in WIDTHS.items()
            if record.before[key] != record.after[key]
        },
        "parameters": (human(before.num_params()), human(after.num_params())),
        "active parameters": (human(before.num_active_params()), human(after.num_active_params())),
        "loss, same batch": (f"{record.loss_before:.4f}", f"{record.loss_after:.4f}"),
    }
    lines = [f"  {name:<18}{old:>9} → {new}" for name, (old, new) in rows.items()]
    head = f"growth: {record.label}, at step {record.steps:,}, {human(record.tokens)} tokens ({seconds:.1f} s)"
    return "\n".join(["", head, *lines, ""])
