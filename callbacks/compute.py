"""Compute monitor: tokens, FLOPs and time that a run has spent, and losses over them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.throughput import get_available_flops
from typing_extensions import override

from lit_recycle.callbacks.monitor import Monitor, is_multiple, write_scalars
from lit_recycle.data.loader import StreamLoader
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.history import of_this_run
from lit_recycle.growth.schedule import Progress
from lit_recycle.growth.shape import Shape, sizes
from lit_recycle.training.axes import GFLOPS, TOKENS, AxisWriter, axis_writers
from lit_recycle.training.growable import GrowableModule

SETTLED = 8
"""Equal points after which a smoothed curve is there: TensorBoard does so by 0.6 unless that is turned off."""
DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32, "64": torch.float64}
"""Of the matrix products, by the beginning of trainer.precision."""


class ComputeMonitor(Monitor):
    """Logs, under ``compute/``:

    - ``tokens``, ``flops``: trained on and spent so far; ``flops_sunk`` before the first growth, ``flops_extra`` after;
    - ``layers``, ``experts``, ``params``, ``active_params``, after a growth at each of eight steps, so that they are
      seen to jump by whoever smooths curves; and means over the run's tokens, ``params_mean``, ``active_params_mean``;
    - ``tokens_per_second`` of all processes since the last point, without validation and growing;
    - ``data_wait_share``: share of that time in which the first process waited for the next batch of ``TextData``;
    - ``mfu``: FLOPs per second as a share of what the devices can do at best, where that is known.

    Every loss is drawn over tokens and over GFLOPs (10⁹ FLOPs) as well, as ``loss/…_over_tokens`` and
    ``loss/…_over_GFLOPs``, with a stroke at each growth, by loggers that can.

    Args:
        every_n_steps: Distance of points; ``trainer.log_every_n_steps`` when not given.
        peak_flops: FLOPs per second of one device at best; looked up by its name when not given.
    """

    def __init__(self, every_n_steps: int | None = None, peak_flops: float | None = None) -> None:
        super().__init__(every_n_steps)
        self.peak_flops = peak_flops
        self.axes: list[AxisWriter] = []
        self._before = Progress(0, 0, 0)
        self._clock = Stopwatch()
        self._waited, self._since = 0.0, 0

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        super().on_train_start(trainer, pl_module)
        now = self._before = pl_module.progress
        self._since = now.steps
        self._peak = self.peak_flops or _peak_flops(pl_module.device, str(trainer.precision))
        self.axes = axis_writers(trainer, {TOKENS: now.tokens, GFLOPS: now.flops})
        self._clock.restart(now)
        self._waited = seconds_waited(trainer) or 0.0

    @override
    def on_step(self, trainer: L.Trainer, module: GrowableModule) -> None:
        self._began, self._before = self._before, module.progress
        growth = of_this_run(module.growth)
        if growth and module.progress.steps - growth[-1]["steps"] <= SETTLED:
            self._write_sizes(trainer, module)

    @override
    def scalars(self, trainer: L.Trainer, module: GrowableModule) -> Mapping[str, float]:
        self._write_losses(trainer, module)
        if module.device.type != "cpu":
            torch.accelerator.synchronize(module.device)
        seconds, tokens, flops = self._clock.lap(module.progress)
        values = spent(module.shape, of_this_run(module.growth), module.progress)
        values["compute/tokens_per_second"] = tokens / seconds
        if (waited := seconds_waited(trainer)) is not None:
            values["compute/data_wait_share"] = (waited - self._waited) / seconds
            self._waited = waited
        if self._peak:
            values["compute/mfu"] = flops / seconds / (self._peak * trainer.world_size)
        return values

    def _write_sizes(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """Where no point is anyway: the step of a growth is steep."""
        if not is_multiple(module.progress.steps, self.every_n_steps or trainer.log_every_n_steps):  # type: ignore[attr-defined]
            write_scalars(trainer, sizes_now(module.shape), module.progress.steps - 1)

    # --- losses over tokens and FLOPs --------------------------------------------------------------------------------

    def _write_losses(self, trainer: L.Trainer, module: GrowableModule) -> None:
        """The losses of this step, at the count at which the step began, as Lightning's steps are."""
        if self.axes:
            metrics = trainer.callback_metrics | module.step_values
            losses = {k: float(v) for k, v in metrics.items() if k.startswith("loss/") and not _is_validation(k)}
            for axis in self.axes:
                axis.write(losses, _count(axis, self._began))

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._clock.go_on()
        if self.axes and not trainer.sanity_checking:
            losses = {k: float(v) for k, v in trainer.callback_metrics.items() if _is_validation(k)}
            for axis in self.axes:
                axis.write_end(losses, _count(axis, pl_module.progress))

    @override
    def on_growth_end(self, trainer: L.Trainer, module: GrowableModule, record: Mapping[str, Any]) -> None:
        self._clock.go_on()
        losses = [record["loss_before"], record["loss_after"]]
        for axis in self.axes:
            axis.mark(
                f"growth/mark_{len(module.growth)}", 0.75 * min(losses), 1.25 * max(losses), _count(axis, self._before)
            )

    # --- the stopwatch stands still ----------------------------------------------------------------------------------

    @override
    def on_validation_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        self._clock.pause()

    @override
    def on_growth_start(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent) -> None:
        self._clock.pause()
        if module.progress.steps > self._since:
            self._write_sizes(trainer, module)

    @override
    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        for axis in self.axes:
            axis.close()
        self.axes = []


class Stopwatch:
    """Time since the last lap, pauses left out."""

    def __init__(self) -> None:
        self.restart(Progress(0, 0, 0))

    def restart(self, now: Progress) -> None:
        self._last, self._since, self._paused_at = now, time.perf_counter(), 0.0

    def pause(self) -> None:
        self._paused_at = time.perf_counter()

    def go_on(self) -> None:
        self._since += time.perf_counter() - self._paused_at

    def lap(self, now: Progress) -> tuple[float, int, int]:
        """Seconds, tokens and FLOPs."""
        lap = time.perf_counter() - self._since, now.tokens - self._last.tokens, now.flops - self._last.flops
        self.restart(now)
        return lap


def seconds_waited(trainer: L.Trainer) -> float | None:
    """What this process has waited for training batches so far; None where they are not `TextData`'s."""
    loader = trainer.train_dataloader
    return loader.seconds_waited if isinstance(loader, StreamLoader) else None


def spent(shape: Shape, growth: list[dict[str, Any]], now: Progress) -> dict[str, float]:
    """The values of :class:`ComputeMonitor` that follow from a run's history alone.

    The mean number of parameters N̄ over training is what a loss law of growing models goes by (arXiv 2501.12486).
    """
    sunk = growth[0]["flops"] if growth else now.flops  # before the first growth nothing is extra
    stages = [record["sizes_before"] for record in growth] + [sizes(shape)]
    ends = [record["tokens"] for record in growth] + [now.tokens]
    tokens = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]

    def mean(counts: list[int]) -> float:
        return sum(size * count for size, count in zip(counts, tokens, strict=True)) / max(sum(tokens), 1)

    params, active = [stage["params"] for stage in stages], [stage["active_params"] for stage in stages]
    return sizes_now(shape) | {
        "compute/tokens": float(now.tokens),
        "compute/flops": float(now.flops),
        "compute/flops_sunk": float(sunk),
        "compute/flops_extra": float(now.flops - sunk),
        "compute/params_mean": mean(params),
        "compute/active_params_mean": mean(active),
    }


def sizes_now(shape: Shape) -> dict[str, float]:
    """Those of :class:`ComputeMonitor` that only a growth changes."""
    return {f"compute/{name}": float(sizes(shape)[name]) for name in ("layers", "experts", "params", "active_params")}


def _is_validation(name: str) -> bool:
    return name.startswith("loss/val")


def _count(axis: AxisWriter, progress: Progress) -> int:
    return progress.tokens if axis.axis == TOKENS else progress.flops


def _peak_flops(device: torch.device, precision: str) -> float | None:
    """Of one device by its name; None where Lightning does not know it, and says so."""
    if device.type == "cpu":
        return None
    dtype = next((dtype for name, dtype in DTYPES.items() if precision.startswith(name)), torch.bfloat16)
    return get_available_flops(device, dtype)
