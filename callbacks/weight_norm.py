"""Weight norm monitor: the layer-wise profile by which a trained model can be told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from lit_recycle.callbacks.monitor import Monitor, Picture, some_layers, write_pictures
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.training import named_state
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.loggers import holders
from lit_recycle.training.weight_stats import norm_profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class WeightNormMonitor(Monitor):
    """Logs the norm profile of arXiv 2510.08008: per layer, the mean over experts of the mean over (gate, up, down)
    of ‖W‖_F / √numel, the root mean square of a weight.

    Scalars ``norms/mean`` and, for single layers, ``norms/layer_03``; the picture ``norms/profile`` has all layers,
    laid over the profiles right before and after the last growth.

    Args:
        every_n_steps: Distance of points. Every weight of the experts is read for one.
        plot_every_n_steps: Distance of pictures; 0 for none. There is one after each growth besides.
        max_layers: Single layers that get curves of their own, spread over the depth.
    """

    def __init__(self, every_n_steps: int | None = 100, plot_every_n_steps: int = 500, max_layers: int = 4) -> None:
        super().__init__(every_n_steps, plot_every_n_steps)
        self.max_layers = max_layers
        self.remembered: dict[str, list[float]] = {}
        """Profiles right before and after the last growth, by the label of their curve."""

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"remembered": dict(self.remembered)}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.remembered = dict(state_dict["remembered"])

    @override
    def scalars(self, trainer: L.Trainer, module: GrowableModule) -> Mapping[str, float]:
        profile = _profile(trainer, module).tolist()
        values = {"norms/mean": sum(profile) / len(profile)}
        for i in some_layers(profile, self.max_layers):
            values[f"norms/layer_{i:02d}"] = profile[i]
        return values

    @override
    def pictures(self, trainer: L.Trainer, module: GrowableModule) -> Iterable[Picture]:
        profile = _profile(trainer, module)
        yield self._picture(f"step {trainer.global_step - 1:,}", profile)

    @override
    def on_growth_start(self, trainer: L.Trainer, module: GrowableModule, event: GrowthEvent) -> None:
        self.remembered = {f"before growth, step {trainer.global_step:,}": _profile(trainer, module).tolist()}

    @override
    def on_growth_end(self, trainer: L.Trainer, module: GrowableModule, record: Mapping[str, Any]) -> None:
        profile, remembered = _profile(trainer, module), dict(self.remembered)
        if self.plot_every_n_steps:
            write_pictures(trainer, [self._picture("after growth", profile)], record["steps"])
            before = torch.tensor(next(iter(remembered.values())))
            for holder in holders(trainer):
                holder.array("norms/profile/before_growth", before, record["steps"])
        self.remembered = remembered | {"after growth": profile.tolist()}

    def _picture(self, label: str, profile: Tensor) -> Picture:
        named = self.remembered | {label: profile.tolist()}

        def draw() -> Figure:
            from lit_recycle.report.plots import profiles

            return profiles(named)

        return Picture("norms/profile", profile, draw)


def _profile(trainer: L.Trainer, module: GrowableModule) -> Tensor:
    assert trainer.model is not None
    with torch.no_grad():
        return norm_profile(named_state.weights(trainer.model), module.shape.naming).cpu()
