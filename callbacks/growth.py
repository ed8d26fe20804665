"""Growth callback: grows the model during training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import lightning as L
from torch.optim import Optimizer
from typing_extensions import override

from lit_recycle.callbacks.monitor import GrowthHooks
from lit_recycle.checkpoints.apart import save_apart
from lit_recycle.data.batches import Batch
from lit_recycle.data.pace import Pace, check_resizable, micro_batches_of, pace_of
from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.facts import ACTIVATION, CHANNELS, GRADIENTS, Facts, Unmeasured
from lit_recycle.growth.history import GrowthRecord, of_this_run, records_to_come
from lit_recycle.growth.measure import norms, weight_facts
from lit_recycle.growth.operator import GrowableModel
from lit_recycle.growth.plan import GrowthPlan, plan_growth
from lit_recycle.growth.schedule import Stage, is_due, stages
from lit_recycle.growth.shape import Shape
from lit_recycle.growth.update_rules import check_rules
from lit_recycle.training import named_state
from lit_recycle.training.activations import activations, check_activations
from lit_recycle.training.averages import update_averages
from lit_recycle.training.description import check_description
from lit_recycle.training.growable import GrowableModule, check_growable
from lit_recycle.training.growth_log import batch_loss, log_growth
from lit_recycle.training.regrow import check_optimizer, grow_in_run, refuse_incompatible
from lit_recycle.training.rewarm import rate_factor, rewarm_factor, unwarm, unwarm_after_steps, warm
from lit_recycle.training.row_updates import RowUpdates
from lit_recycle.training.utility import ExpertUtility


class GrowthCallback(L.Callback):
    """Expands the model at configured moments of a run that goes on.

    An event fires at the start of the first batch at which its trigger holds. After the batch before, a checkpoint of
    the small model is saved: the anchor. What has grown is recorded in the module's hyperparameters, so that a
    resumed run never needs to be told, and no event is applied twice.

    Args:
        events: The growths, in order of time.
        dirpath: Folder of the anchor checkpoints, or an address (``s3://…``); when not given, the address of
            ``ModelCheckpoint`` where it has one, or ``checkpoints`` in the trainer's root folder.
        save_anchor: Save a checkpoint before each event.
        seed: Seed of all that is random.
        utility_steps: Number of steps before an event over which load and gradients of experts are averaged, for
            operators that choose by them.
        start_seq_len: Tokens per sample before the first event that has a ``seq_len``; ``data.seq_len``, the full
            length, when not given.
        constant_tokens: Keep the tokens per optimizer step while samples are shorter, with more of them.

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
        start_seq_len: int | None = None,
        constant_tokens: bool = False,
    ) -> None:
        if utility_steps < 1:
            raise ValueError(f"GrowthCallback.utility_steps must be at least 1, got {utility_steps}")
        if not events:
            raise ValueError("GrowthCallback.events is empty: list at least one growth, or leave the callback out")
        self.events: Sequence[GrowthEvent] = tuple(part for event in events for part in event.spread())
        self._written = [event.to_dict() for event in self.events]  # asked for several times in each step
        self.dirpath, self.save_anchor, self.seed = dirpath, save_anchor, seed
        self.seq_len, self.constant_tokens = start_seq_len, constant_tokens
        if start_seq_len is not None and start_seq_len < 1:
            raise ValueError(f"GrowthCallback.start_seq_len must be at least 1, got {start_seq_len}")
        self.utility, self._checked, self._last_step = ExpertUtility(utility_steps), False, 0
        self.rows = RowUpdates()

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"utility": self.utility.state_dict(), "seq_len": self.seq_len}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.utility.load_state_dict(state_dict["utility"])
        self.seq_len = state_dict["seq_len"]

    # --- before training ---------------------------------------------------------------------------------------------

    @override
    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        check_growable(pl_module, data)
        if self.sets_length:
            check_resizable(data, "GrowthCallback with seq_len")
        refuse_incompatible(trainer)

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self.rows.release(pl_module)  # an earlier run may have been broken off
        self._watch(trainer)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        stages = self.stages(trainer, pl_module)
        if isinstance(pl_module, GrowableModule):
            pl_module.shapes_to_come = [stage.shape for stage in stages]
            check_description(pl_module, [stage.plan for stage in stages if stage.plan is not None])
        for asked in {fact for event in self.events for operator in event.operators for fact in operator.asks}:
            if asked.startswith(ACTIVATION):
                check_activations(pl_module, asked.removeprefix(ACTIVATION))
        check_rules([*pl_module.growth, *records_to_come(stages, named_state.parameter_names(pl_module))])
        self.rows.follow(trainer, pl_module)
        self._last_step = trainer.global_step
        self._prepare_step(trainer, pl_module)

    @override
    def on_train_end(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self.rows.release(pl_module)

    def stages(self, trainer: L.Trainer, module: GrowableModule) -> list[Stage]:
        """What is left of the run, the present stage first.

        Raises:
            ValueError: For events out of order, in the past, or after the end of the run.
        """
        # A dry run ends before they come.
        to_come = [] if trainer.fast_dev_run else self._matched(module.growth)[0]  # type: ignore[attr-defined]
        return stages(
            module.shape,
            [event for _, event in to_come],
            pace=pace_of(trainer, trainer.datamodule),  # type: ignore[attr-defined]
            max_steps=trainer.max_steps,
            start=module.progress,
            micro_batches=micro_batches_of(trainer),
            seed=self.seed,
            first_event=len(module.growth),
            numbers=[number for number, _ in to_come],
        )

    def open_events(self, growth: Sequence[dict[str, Any]]) -> list[GrowthEvent]:
        """The configured events that the run has not been through, matched by what they say."""
        return [event for _, event in self._matched(growth)[0]]

    def unlisted(self, growth: Sequence[dict[str, Any]]) -> list[str]:
        """A sentence on each growth of the run that is no event of the configuration, as one that was changed since."""
        return [
            f"the checkpoint has grown, {record['label']} at step {record['steps']:,}, by no event of this "
            "configuration: one that was changed since is still to come, and grows the model once more"
            for record in self._matched(growth)[1]
        ]

    def _matched(self, growth: Sequence[dict[str, Any]]) -> tuple[list[tuple[int, GrowthEvent]], list[dict[str, Any]]]:
        """Events to come with their numbers in the configuration, from 1, and records of growths that are not in it."""
        past, to_come = of_this_run(growth), []
        for number, (event, written) in enumerate(zip(self.events, self._written, strict=True), 1):
            record = next((record for record in past if record["event"] == written), None)
            if record is None:
                to_come.append((number, event))
            else:
                past.remove(record)
        return to_come, past

    # --- length of samples -------------------------------------------------------------------------------------------

    @property
    def sets_length(self) -> bool:
        """Whether the length of samples changes with growths."""
        return self.seq_len is not None or any(event.seq_len is not None for event in self.events)

    def paced(self, pace: Pace) -> Pace:
        """See :class:`lit_recycle.data.pace.SetsPace`; growths to come are left to whoever knows when they come."""
        if not self.sets_length:
            return pace
        for number, event in enumerate(self.events, 1):
            if event.seq_len is not None:
                pace.with_length(event.seq_len, event.name(number))
        return pace.with_growing_length(self.seq_len, self.constant_tokens)

    # --- in training -------------------------------------------------------------------------------------------------

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: GrowableModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step == self._last_step:  # within an optimizer step, which an epoch's end may cut short
            return
        self._last_step = trainer.global_step
        self._check_optimizer(trainer, pl_module)
        if "load" in self.utility.wanted(self.open_events(pl_module.growth)):
            self.utility.observe_load(pl_module)
        self.rows.follow(trainer, pl_module)
        self._prepare_step(trainer, pl_module)
        if self.save_anchor and trainer.global_step < trainer.max_steps and self._due(pl_module):
            update_averages(trainer, pl_module, outputs, batch, batch_idx)
            save_apart(trainer, "anchor", self.dirpath)

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: GrowableModule, batch: Batch, batch_idx: int) -> None:
        while event := self._due(pl_module):
            self._grow(trainer, pl_module, event, batch)

    @override
    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: GrowableModule, optimizer: Optimizer) -> None:
        if set(GRADIENTS) & self.utility.wanted(self.open_events(pl_module.growth)):
            self.utility.observe_gradients(pl_module)
        self._log_rate_of_new(trainer, pl_module, optimizer)
        self.rows.save(trainer.global_step)

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: GrowableModule, checkpoint: dict[str, Any]) -> None:
        for saved in checkpoint["optimizer_states"]:
            unwarm(saved["param_groups"])

    def _watch(self, trainer: L.Trainer) -> None:
        """Let each step of the optimizer be followed by what a growth wants done after it."""
        unwarm_after_steps(trainer.optimizers[0])
        self.rows.watch(trainer.optimizers[0])

    def _prepare_step(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """Set rate and length of the next step, before anybody logs it; growths may come right before that step."""
        warm(trainer.optimizers, rate_factor(trainer, module))
        if self.sets_length:
            data = trainer.datamodule  # type: ignore[attr-defined]
            told = [data.seq_len, self.seq_len, *(event.seq_len for event in self._all_due(module))]
            length = next(length for length in reversed(told) if length is not None)
            data.set_length(length, constant_tokens=self.constant_tokens)

    def rate_factor(self, trainer: L.Trainer, module: GrowableModule) -> float:
        """See :class:`lit_recycle.training.rewarm.RateFactor`."""
        return rewarm_factor(module.growth, trainer.global_step, list(self._all_due(module)))

    def _all_due(self, module: GrowableModule) -> Iterator[GrowthEvent]:
        """The growths before the next step, the second one by the shape that the first one leads to."""
        shape = module.shape
        for event in self.open_events(module.growth):
            if not is_due(event.at, module.progress, shape):
                return
            yield event
            shape = cast(Shape, plan_growth(shape, event.operators, facts=Unmeasured).after)

    def _log_rate_of_new(self, trainer: L.Trainer, module: GrowableModule, optimizer: Optimizer) -> None:
        """Beside the curves of Lightning's LearningRateMonitor, while new rows have a rate of their own."""
        share = self.rows.factor_of_new(trainer.global_step)
        if share is not None:
            for i, group in enumerate(optimizer.param_groups):
                name = f"lr-{type(optimizer).__name__}/{group.get('name', f'pg{i + 1}')}/new"
                module.log(name, group["lr"] * share)

    def _check_optimizer(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """After the first step, when its state is there: not at an event that is weeks away."""
        if self._checked:
            return
        if module.progress.tokens == 0:
            raise ValueError(
                f"{type(module).__name__}.training_step has counted no tokens: call self.count(samples=…, tokens=…)"
            )
        events = [event for event in self.open_events(module.growth) if event.optimizer_state != "reset"]
        if events:
            operators = [operator for event in events for operator in event.operators]
            check_optimizer(module, trainer.optimizers[0], divides=any(op.axes != "layers" for op in operators))
        self._checked = True

    def _due(self, module: GrowableModule) -> GrowthEvent | None:
        return next(self._all_due(module), None)

    def _grow(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent, batch: Batch) -> None:
        for observer in _observers(trainer):
            observer.on_growth_start(trainer, module, event)
        progress, loss_before = module.progress, batch_loss(trainer, module, batch)
        started = time.perf_counter()
        plan, names = self._plan(trainer, module, event, batch), named_state.parameter_names(module)
        self.rows.release(module)
        grow_in_run(trainer, module, plan, event.optimizer_state)
        self._watch(trainer)
        seconds = time.perf_counter() - started
        losses = (loss_before, batch_loss(trainer, module, batch))
        record = GrowthRecord.of(event, progress, plan, names, losses)
        module.set_shape(module.shape, [*module.growth, record.to_dict()])
        self.rows.follow(trainer, module)
        self.utility.clear()
        self.seq_len = event.seq_len or self.seq_len
        self._prepare_step(trainer, module)
        log_growth(trainer, record, seconds)
        for observer in _observers(trainer):
            observer.on_growth_end(trainer, module, module.growth[-1])

    def _plan(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent, batch: Batch) -> GrowthPlan:
        def facts(model: GrowableModel) -> Facts:
            assert trainer.model is not None
            weights = named_state.weights(trainer.model)
            seen = {f"{ACTIVATION}{axis}": partial(activations, trainer, module, batch, axis) for axis in CHANNELS}
            return weight_facts(model, weights, seen | self.utility.facts(lambda: norms(model, weights, EXPERTS)))

        return plan_growth(module.shape, event.operators, seed=self.seed, event=len(module.growth), facts=facts)


def _observers(trainer: L.Trainer) -> list[GrowthHooks]:
    return [callback for callback in trainer.callbacks if isinstance(callback, GrowthHooks)]  # type: ignore[attr-defined]
