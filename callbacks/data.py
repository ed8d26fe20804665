"""Data monitor: size of the optimizer steps, and what a run has read of each source."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
from typing_extensions import override

from lit_recycle.callbacks.monitor import Monitor
from lit_recycle.data.module import TextData
from lit_recycle.training.growable import GrowableModule


class DataMonitor(Monitor):
    """Logs, under ``data/``:

    - ``seq_len``: tokens per sample of the optimizer step; ``batch_tokens``: tokens of it, over all processes;

    and for each source of `TextData` by its name (``corpus`` for the only one):

    - ``tokens_<name>``: tokens of it that the run has trained on;
    - ``epochs_<name>``: how often it has been gone through.

    Args:
        every_n_steps: Distance of points; ``trainer.log_every_n_steps`` when not given.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps)
        self._seen_before = (0, 0)
        self._step = (0, 0)

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._seen_before = (pl_module.samples_seen, pl_module.tokens_seen)

    @override
    def on_step(self, trainer: L.Trainer, module: GrowableModule) -> None:
        now, before = (module.samples_seen, module.tokens_seen), self._seen_before
        self._step, self._seen_before = (now[0] - before[0], now[1] - before[1]), now

    @override
    def scalars(self, trainer: L.Trainer, module: GrowableModule) -> Mapping[str, float]:
        samples, tokens = self._step
        values = {"data/seq_len": tokens / max(samples, 1), "data/batch_tokens": float(tokens)}
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, TextData):
            return values
        for name, (tokens, epochs) in data.drawn().items():
            values |= {f"data/tokens_{name}": float(tokens), f"data/epochs_{name}": epochs}
        return values
