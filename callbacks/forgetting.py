"""What a model forgets: each validation loss against its first value and against the one before the last growth."""

from __future__ import annotations

from typing import Any

import lightning as L
from typing_extensions import override

from callbacks.monitor import write_scalars
from lit_recycle.training.module import LitMoE


class ForgettingMonitor(L.Callback):
    """Logs, under ``forgetting/``, after each validation and for each validation set, in nats per token:

    - ``<name>_since_start``: loss minus the first one that was measured;
    - ``<name>_since_growth``: loss minus the last one before the last growth.

    ``<name>`` is that of a source or of `data.val`, and ``split`` stands for what was split off from all sources. Below
    zero is learnt, above it forgotten. The first loss is that of the model before any training where
    ``trainer.num_sanity_val_steps`` is -1, and that of the first validation otherwise. A checkpoint of a step that is
    validated is saved before its validation: a run that goes on from it does not know that one.
    """

    def __init__(self) -> None:
        self.first: dict[str, float] = {}
        self.before_growth: dict[str, float] = {}
        self.last: dict[str, float] = {}
        self._growths = 0

    @override
    def state_dict(self) -> dict[str, Any]:
        losses = {name: dict(getattr(self, name)) for name in ("first", "before_growth", "last")}
        return {**losses, "growths": self._growths}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for name in ("first", "before_growth", "last"):
            setattr(self, name, dict(state_dict[name]))
        self._growths = state_dict["growths"]

    @override
    def on_fit_start(self, trainer: L.Trainer, pl_module: LitMoE) -> None:
        if not self.last:  # growths that are older than the run have no loss before them
            self._growths = len(pl_module.growth)

    @override
    def on_validation_end(self, trainer: L.Trainer, pl_module: LitMoE) -> None:
        if trainer.state.fn != "fit" or (trainer.sanity_checking and trainer.num_sanity_val_steps != float("inf")):
            return
        names = [part.name for part in pl_module.val_sets if part.name]
        losses = {name: float(trainer.callback_metrics[f"loss/val_{name}"]) for name in names}
        losses["split"] = float(trainer.callback_metrics["loss/val"])
        if len(pl_module.growth) > self._growths:
            self.before_growth, self._growths = dict(self.last), len(pl_module.growth)
        self.first = losses | self.first
        self.last = losses
        if trainer.sanity_checking:
            return
        values = {f"forgetting/{name}_since_start": loss - self.first[name] for name, loss in losses.items()}
        for name in losses.keys() & self.before_growth.keys():
            values[f"forgetting/{name}_since_growth"] = losses[name] - self.before_growth[name]
        write_scalars(trainer, values, trainer.global_step - 1)
