"""Expert load monitor: how evenly the routers spread tokens over the experts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import lightning as L
import torch
from torch import Tensor
from typing_extensions import override

from lit_recycle.callbacks.monitor import Monitor, Picture, moe_layers, some_layers
from lit_recycle.training.growable import GrowableModule


class ExpertLoadMonitor(Monitor):
    """Logs how many tokens each expert got in an optimizer step, over all processes and micro-batches.

    Under ``experts/``, for the model and for single layers (``experts/layer_03/…``):

    - ``load_max``: load of the busiest expert relative to the ideal (all experts the same); 1 when even,
    - ``load_cv``: coefficient of variation of the load, 0 when even,
    - ``dead``: number of experts that got no token,
    - ``effective``: effective number of experts exp(H), H the entropy of the load in nats; all of them when even.

    For the model ``load_max`` is the largest over layers, ``dead`` the sum, the others the mean. All layers and
    experts are in a heat map, ``experts/load``.

    Args:
        every_n_steps: Distance of points; ``trainer.log_every_n_steps`` when not given.
        plot_every_n_steps: Distance of heat maps; 0 for none.
        max_layers: Single layers that get curves of their own, spread over the depth.
    """

    def __init__(self, every_n_steps: int | None = None, plot_every_n_steps: int = 500, max_layers: int = 4) -> None:
        super().__init__(every_n_steps, plot_every_n_steps)
        self.max_layers = max_layers

    @override
    def scalars(self, trainer: L.Trainer, module: GrowableModule) -> Mapping[str, float]:
        if module.counts_LE is None:
            return {}
        layers = moe_layers(module)
        per_layer = load_statistics(module.counts_LE)
        table = torch.stack([*per_layer.values()]).tolist()  # one wait for the device
        values = {}
        for name, row in zip(per_layer, table, strict=True):
            values[f"experts/{name}"] = _OVER_LAYERS[name](row)
            for i in some_layers(layers, self.max_layers):
                values[f"experts/layer_{layers[i]:02d}/{name}"] = row[i]
        return values

    @override
    def pictures(self, trainer: L.Trainer, module: GrowableModule) -> Iterable[Picture]:
        if module.counts_LE is not None:
            load_LE = relative_load(module.counts_LE).float().cpu()
            yield Picture("experts/load", load_LE, partial(_draw, load_LE, moe_layers(module)))


def relative_load(counts_LE: Tensor) -> Tensor:
    """Tokens of each expert divided by what it would get if all of its layer got the same."""
    return counts_LE / counts_LE.mean(-1, keepdim=True)


def load_statistics(counts_LE: Tensor) -> dict[str, Tensor]:
    """Each ``[L]``; see :class:`ExpertLoadMonitor`."""
    load_LE = relative_load(counts_LE)
    shares_LE = load_LE / load_LE.shape[-1]
    return {
        "load_max": load_LE.amax(-1),
        "load_cv": load_LE.std(-1, correction=0),
        "dead": (counts_LE == 0).sum(-1).to(load_LE.dtype),
        "effective": torch.special.entr(shares_LE).sum(-1).exp(),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


_OVER_LAYERS: dict[str, Callable[[Sequence[float]], float]] = {
    "load_max": max,
    "load_cv": _mean,
    "dead": sum,
    "effective": _mean,
}


def _draw(load_LE: Tensor, layers: Sequence[int]):
    from lit_recycle.report.plots import load_map

    return load_map(load_LE.numpy(), layers)
