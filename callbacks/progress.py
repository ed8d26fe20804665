"""Progress bar of a run in the console."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.callbacks.progress.rich_progress import ProcessingSpeedColumn
from rich.console import Group, RenderableType
from rich.progress import BarColumn, ProgressColumn, Task
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from lit_recycle.callbacks.compute import seconds_waited
from lit_recycle.callbacks.growth import GrowthCallback
from lit_recycle.callbacks.monitor import GrowthHooks
from lit_recycle.data.batches import Batch
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.history import of_this_run
from lit_recycle.growth.schedule import Stage
from lit_recycle.growth.shape import experts_by_layer
from lit_recycle.text import human
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.param_groups import main_group
from lit_recycle.training.rewarm import applied_rate

SPEED_OVER = 20
"""Optimizer steps that the speed shown is a mean of."""
WAIT_SHOWN_FROM = 0.01
"""Share of the time spent waiting for data from which on it is shown: below, it is none of a user's worries."""


class TwoLines(ProgressColumn):
    """The columns of a task in one line, its fields ``soon`` behind them and ``status`` below; both fit 80 columns."""

    def __init__(self, columns: list[ProgressColumn]) -> None:
        super().__init__()
        self.columns = columns

    @override
    def render(self, task: Task) -> RenderableType:
        line = Table.grid(padding=(0, 1, 0, 0))
        for column in self.columns:
            line.add_column(no_wrap=not isinstance(column, BarColumn))  # the bar is what gives way
        line.add_column(no_wrap=True, overflow="ellipsis")
        line.add_row(*(column(task) for column in self.columns), task.fields.get("soon", ""))
        status = Text(task.fields.get("status", ""), no_wrap=True, overflow="ellipsis")
        return Group(line, status) if status else line


class RunProgressBar(GrowthHooks, RichProgressBar):
    """A bar over the optimizer steps of the run: stage, layers × experts, loss, tokens/s, and when the next growth is.

    The share of time spent waiting for data is shown, too, where it is 1 % or more.

    It is drawn between two steps, and what stands in it is looked up only then: drawn by a thread of its own, as
    Lightning does, and told everything at every step, it takes a fortieth of the time of two cores.

    Args:
        refresh_rate: Redraws per second at the most; 0 for no bar.
        leave: Leave the bar in the terminal at the end.
        console_kwargs: Options of rich's ``Console``.
    """

    def __init__(self, refresh_rate: int = 1, leave: bool = True, console_kwargs: dict[str, Any] | None = None) -> None:
        super().__init__(refresh_rate, leave, console_kwargs=console_kwargs)
        self._stages: list[Stage] = []
        self._doing = ""
        self._steps: deque[tuple[float, int, int, float]] = deque(maxlen=SPEED_OVER + 1)
        self._next_draw = 0.0

    @property
    @override
    def total_train_batches(self) -> int | float:
        """Of the whole run, in optimizer steps."""
        return self.trainer.max_steps

    @override
    def configure_columns(self, trainer: L.Trainer) -> list[Any]:
        """Lightning's, without batches per second: tokens per second stand below."""
        return [TwoLines([c for c in super().configure_columns(trainer) if not isinstance(c, ProcessingSpeedColumn)])]

    @override
    def _get_train_description(self, current_epoch: int) -> str:  # the stream of batches has no epochs
        return self._stage()

    def _stage(self) -> str:
        module: Any = self.trainer.lightning_module
        growths = len(of_this_run(module.growth))
        return f"stage {growths + 1}/{growths + max(len(self._stages), 1)}"

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._plan(trainer, pl_module)

    def _plan(self, trainer: L.Trainer, module: GrowableModule) -> None:
        growth = next((c for c in trainer.callbacks if isinstance(c, GrowthCallback)), None)  # type: ignore[attr-defined]
        self._stages = growth.stages(trainer, module) if growth else []
        self._steps.clear()

    @override
    def on_growth_start(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent) -> None:
        self._describe("growing: " + ", ".join(type(operator).__name__ for operator in event.operators))

    @override
    def on_growth_end(self, trainer: L.Trainer, module: GrowableModule, record: Mapping[str, Any]) -> None:
        self._plan(trainer, module)
        self._show(soon=self._soon(trainer))

    @override
    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        self._describe("saving")

    @override
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: GrowableModule, batch: Batch, batch_idx: int) -> None:
        if self._doing:
            self._describe("")

    @override
    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self._doing == "saving":  # the last checkpoint, not followed by a batch
            self._describe("")
        if self.progress is not None:
            self.progress.stop()  # what others print at the end comes below it

    def _describe(self, doing: str) -> None:
        """What is done besides training; nothing for the stage of the run."""
        self._doing = doing
        self._show(description=doing or self._stage(), completed=self.trainer.global_step)
        if self.progress is not None:
            self.progress.refresh()

    def _show(self, **what: Any) -> None:
        if self.progress is not None and self.train_progress_bar_id is not None:
            self.progress.update(self.train_progress_bar_id, **what)

    @override
    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: GrowableModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not self._steps or self._steps[-1][1] != trainer.global_step:
            waited = seconds_waited(trainer) or 0.0
            self._steps.append((time.perf_counter(), trainer.global_step, pl_module.tokens_seen, waited))
        if self.progress is None or not (self._is_time() or trainer.global_step == trainer.max_steps):
            return
        if self.train_progress_bar_id is None:  # a run that goes on within its only epoch
            self._initialize_train_progress_bar_id()
        assert self.train_progress_bar_id is not None
        self.progress.update(self.train_progress_bar_id, completed=trainer.global_step)
        self._update_metrics(trainer, pl_module)
        self.refresh(hard=True)

    def _is_time(self) -> bool:
        return time.perf_counter() >= self._next_draw

    @override
    def refresh(self, hard: bool = False) -> None:
        if self.progress is not None and (hard or self._is_time()):
            self._next_draw = time.perf_counter() + 1 / self.refresh_rate
            self.progress.refresh()

    @override
    def get_metrics(
        self, trainer: L.Trainer, pl_module: GrowableModule
    ) -> dict[str, int | str | float | dict[str, float]]:
        """None beside the bar: they stand below it."""
        self._show(status=" · ".join(self._status(trainer, pl_module)), soon=self._soon(trainer))
        return {}

    def _status(self, trainer: L.Trainer, module: GrowableModule) -> Iterator[str]:
        """What comes first is not cut off."""
        yield f"{module.shape.num_layers} layers × {max(experts_by_layer(module.shape))} experts"
        values = dict(trainer.progress_bar_metrics)
        if module.step_losses:  # newer than what was logged
            values["loss"] = float(module.step_losses[-1])
        for label, name in (("loss", "loss"), ("val", "loss/val")):
            if name in values:
                yield f"{label} {values[name]:.3f}"
        _, tokens_per_second, wait_share = self._speed()
        if tokens_per_second:
            yield f"{human(tokens_per_second)} tokens/s"
        if wait_share >= WAIT_SHOWN_FROM:
            yield f"data wait {wait_share:.0%}"
        yield f"lr {applied_rate(main_group(trainer.optimizers[0]), trainer, module):.2e}"

    def _soon(self, trainer: L.Trainer) -> str:
        """How far the next growth is."""
        if len(self._stages) < 2:
            return ""
        steps, (seconds_per_step, *_) = max(self._stages[0].end.steps - trainer.global_step, 0), self._speed()
        time_left = f", {timedelta(seconds=round(steps * seconds_per_step))}" if seconds_per_step else ""
        return f"growth in {steps:,} step{'s' * (steps != 1)}{time_left}"

    def _speed(self) -> tuple[float, float, float]:
        """Seconds per optimizer step, tokens per second and share of waiting; zeros before there are two steps."""
        if len(self._steps) < 2:
            return 0.0, 0.0, 0.0
        (start, first, tokens, waited), (end, last, now, waited_now) = self._steps[0], self._steps[-1]
        seconds = end - start
        return seconds / (last - first), (now - tokens) / seconds, (waited_now - waited) / seconds
