"""Data monitor: tokens and epochs that a run has read of each source."""

from __future__ import annotations

from collections.abc import Mapping

import lightning as L
from typing_extensions import override

from lit_recycle.callbacks.monitor import Monitor
from lit_recycle.data.module import TextData
from lit_recycle.training.growable import GrowableModule


class DataMonitor(Monitor):
    """Logs, under ``data/``, for each source of `TextData` by its name (``corpus`` for the only one):

    - ``tokens_<name>``: tokens of it that the run has trained on;
    - ``epochs_<name>``: how often it has been gone through.

    Args:
        every_n_steps: Distance of points; ``trainer.log_every_n_steps`` when not given.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        super().__init__(every_n_steps)

    @override
    def scalars(self, trainer: L.Trainer, module: GrowableModule) -> Mapping[str, float]:
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(data, TextData):
            return {}
        values: dict[str, float] = {}
        for name, (tokens, epochs) in data.drawn().items():
            values |= {f"data/tokens_{name}": float(tokens), f"data/epochs_{name}": epochs}
        return values
