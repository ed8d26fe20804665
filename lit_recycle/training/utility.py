"""Load and gradients of experts over the last steps of a run, for operators that choose experts by them.

Axes: L layers, E experts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.event import GrowthEvent
from lit_recycle.growth.facts import OF_STEPS, PerLayer
from lit_recycle.growth.measure import squares
from lit_recycle.growth.shape import experts_by_layer
from lit_recycle.training import named_state
from lit_recycle.training.growable import GrowableModule


class ExpertUtility:
    """Keeps what the last steps tell of each expert.

    Args:
        steps: Number of optimizer steps that are averaged.
    """

    def __init__(self, steps: int) -> None:
        self.loads: deque[PerLayer] = deque(maxlen=steps)
        self.gradients: deque[PerLayer] = deque(maxlen=steps)

    @staticmethod
    def wanted(events: Iterable[GrowthEvent]) -> set[str]:
        """What the operators of events choose by, and only a run can measure."""
        return {fact for event in events for op in event.operators for fact in op.asks if fact in OF_STEPS}

    def observe_gradients(self, module: GrowableModule) -> None:
        """Take in the squared norm of each expert's gradient, before it is clipped.

        Raises:
            ValueError: Under FSDP1, whose flat slices do not tell experts apart.
        """
        if isinstance(module.trainer.model, FSDP):
            raise ValueError(
                "experts cannot be chosen by gradients under fsdp: set trainer.strategy to fsdp2, or by to norm"
            )
        layers = [torch.zeros(count, dtype=torch.float64) for count in experts_by_layer(module.shape)]
        for name, parameter in module.named_parameters():
            place = module.shape.naming.parse(named_state.clean_name(name))
            matrices = {"gate", "up", "down"} & set(place.axes.matrices)
            if place.layer is not None and EXPERTS in place.axes.names and matrices and parameter.grad is not None:
                layers[place.layer] += squares(place, parameter.grad, EXPERTS)
        self.gradients.append([layer.tolist() for layer in layers])

    def observe_load(self, module: GrowableModule) -> None:
        """Take in the tokens that each expert got in the step at hand."""
        if module.counts_LE is None:
            return
        rows: Iterator[list[float]] = iter(module.counts_LE.tolist())
        self.loads.append([next(rows) if count else [] for count in experts_by_layer(module.shape)])

    def facts(self, norms: Callable[[], PerLayer]) -> dict[str, Callable[[], PerLayer]]:
        """What operators may ask for.

        Args:
            norms: The norm of each expert's weights.
        """

        def product() -> PerLayer:
            pairs = zip(norms(), _mean(self.gradients), strict=True)
            return [[w * g**0.5 for w, g in zip(*layer, strict=True)] for layer in pairs]

        return {
            "load": lambda: _mean(self.loads),
            "gradient": lambda: _mean(self.gradients),
            "norm_gradient": product,
        }

    def clear(self) -> None:
        """Forget all: the experts are others now."""
        self.loads.clear()
        self.gradients.clear()

    def state_dict(self) -> dict[str, Any]:
        return {"loads": list(self.loads), "gradients": list(self.gradients)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.clear()
        self.loads.extend(state["loads"])
        self.gradients.extend(state["gradients"])


def _mean(steps: deque[PerLayer]) -> PerLayer:
    if not steps:
        raise ValueError("no step has been taken yet to measure it in: let the event come later, or choose by norm")
    layers = zip(*steps, strict=True)
    return [Tensor.tolist(torch.tensor(layer, dtype=torch.float64).mean(0)) if layer[0] else [] for layer in layers]
