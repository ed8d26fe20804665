"""Facts of a model's weights and of its run, for operators that choose by them. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from lit_recycle.growth.axes import EXPERT_WIDTH, EXPERTS

CHANNELS = ("F", "S", "I")
"""Axes of inner channels."""
ACTIVATION = "channel_activation_"
"""Of inner channels, before the letter of their axis."""
PerLayer = list[list[float]]
"""For each layer a number for each entry of an axis; an empty list where a layer lacks the axis.

Of an axis inside experts for all of one expert, then for all of the next one.
"""


class Facts:
    """Numbers by name, each measured when it is asked for.

    Args:
        measure: What can be measured here: ``norm`` of experts in a checkpoint, ``gradient`` and ``load`` in a run.
        where: In which words an error says that something cannot be known: ``on disk``.
    """

    def __init__(self, measure: Mapping[str, Callable[[], PerLayer]] | None = None, where: str = "here") -> None:
        self._measure, self._known, self._where = dict(measure or {}), dict[str, PerLayer](), where

    def __call__(self, name: str) -> PerLayer:
        """Raises ``ValueError`` for what cannot be known."""
        if name not in self._measure:
            known = ", ".join(self._measure) or "nothing"
            raise ValueError(f"{name!r} cannot be measured {self._where}, only {known}: choose by one of these")
        if name not in self._known:
            self._known[name] = self._measure[name]()
        return self._known[name]


class Unmeasured(Facts):
    """For a plan of shapes before anything can be measured: all entries are alike."""

    def __init__(self, model: HasSizes) -> None:
        super().__init__()
        self._model = model

    def __call__(self, name: str) -> PerLayer:
        axis = name.rpartition("_")[2] if name.startswith("channel_") else EXPERTS
        layers = range(self._model.num_layers + self._model.num_tail_layers)
        return [[1.0] * entries(self._model, axis, layer) for layer in layers]


def entries(model: HasSizes, axis: str, layer: int) -> int:
    """Entries of an axis in a layer; of one inside experts, in all of them together."""
    return model.size(axis, layer) * (model.size(EXPERTS, layer) if axis == EXPERT_WIDTH else 1)


class HasSizes(Protocol):
    @property
    def num_layers(self) -> int: ...

    @property
    def num_tail_layers(self) -> int: ...

    def size(self, axis: str, layer: int | None = None) -> int: ...
