"""Facts of a model's weights and of its run, for operators that choose by them. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from lit_recycle.growth.axes import EXPERT_WIDTH, EXPERTS

BEHIND = "behind other operators of its event"
FIRST = "list it first, or give it an event of its own"
CHANNELS = ("F", "S", "I")
"""Axes of inner channels."""
NORMS = {"norm": EXPERTS} | {f"channel_norm_{axis}": axis for axis in CHANNELS}
"""What weights tell, and the axis that has a number for each entry."""
ACTIVATION = "channel_activation_"
"""Of inner channels, before the letter of their axis."""
GRADIENTS = ("gradient", "norm_gradient")
OF_STEPS = ("load", *GRADIENTS)
"""Of experts, measured over the steps before an event."""
PerLayer = list[list[float]]
"""For each layer a number for each entry of an axis; an empty list where a layer lacks the axis.

Of an axis inside experts for all of one expert, then for all of the next one.
"""


class Facts:
    """Numbers by name, each measured when it is asked for.

    Args:
        measure: What can be measured here: ``norm`` of experts in a checkpoint, ``gradient`` and ``load`` in a run.
        where: In which words an error says that something cannot be known: ``on disk``.
        grown: The same of what a growth plan makes of the model, where its weights can be grown to be measured.
        way_out: What an error advises.
    """

    def __init__(
        self,
        measure: Mapping[str, Callable[[], PerLayer]] | None = None,
        where: str = "here",
        grown: Callable[[Any], Mapping[str, Callable[[], PerLayer]]] | None = None,
        way_out: str = "choose by one of these",
    ) -> None:
        self._measure, self._known, self._where = dict(measure or {}), dict[str, PerLayer](), where
        self._grown, self._way_out = grown, way_out

    def __call__(self, name: str) -> PerLayer:
        """Raises ``ValueError`` for what cannot be known."""
        if name not in self._measure:
            known = ", ".join(self._measure) or "nothing"
            raise ValueError(f"{name!r} cannot be measured {self._where}, only {known}: {self._way_out}")
        if name not in self._known:
            self._known[name] = self._measure[name]()
        return self._known[name]

    def after(self, plan: Any) -> Facts:
        """The facts for an operator that follows others in its event.

        Args:
            plan: The :class:`lit_recycle.growth.plan.GrowthPlan` of those others.
        """
        return Facts(self._grown(plan) if self._grown else {}, f"{self._where} {BEHIND}", way_out=FIRST)


class Unmeasured(Facts):
    """For a plan of shapes before anything can be measured: all entries are alike.

    Args:
        model: The model.
        is_first: No other operator of the event precedes, behind which only weights can be measured.
    """

    def __init__(self, model: HasSizes, is_first: bool = True) -> None:
        super().__init__()
        self._model, self._is_first = model, is_first

    def after(self, plan: Any) -> Facts:
        """See :class:`Facts`."""
        return Unmeasured(plan.after, is_first=False)

    def __call__(self, name: str) -> PerLayer:
        if not self._is_first and (name in OF_STEPS or name.startswith(ACTIVATION)):
            raise ValueError(f"{name!r} cannot be measured {BEHIND}, only norms: {FIRST}")
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
