"""Learning rate as it is applied: the schedule's, times the factors of callbacks, where loggers see it.

From the end of one step to the end of the next the optimizer's groups have the rate that is applied, under ``lr``, and
the schedule's beside it. Before the schedule is stepped its own is put back, because it may compute the next rate from
the present one. Checkpoints have the schedule's alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any, Protocol, runtime_checkable

import lightning as L
from torch.optim import Optimizer

from lit_recycle.growth.event import GrowthEvent, Rewarm
from lit_recycle.growth.history import of_this_run

SCHEDULED = "scheduled_lr"


def rewarm_factor(growth: Iterable[dict[str, Any]], step: int, due: Sequence[GrowthEvent] = ()) -> float:
    """What growths multiply the rate of a step by. Re-warms of new rows alone are no part of it.

    Args:
        growth: Records of the growths so far.
        step: Number of optimizer steps before it.
        due: Growths that come right before it.
    """
    ramps = [(Rewarm(**r["event"]["rewarm"]), step - r["steps"]) for r in of_this_run(growth) if r["event"]["rewarm"]]
    ramps += [(event.rewarm, 0) for event in due if event.rewarm]
    return prod(rewarm.factor(since) for rewarm, since in ramps if rewarm.who == "all")


@runtime_checkable
class RateFactor(Protocol):
    """A callback that multiplies the rate of the schedule."""

    def rate_factor(self, trainer: L.Trainer, module: Any) -> float:
        """What the rate of the next step is multiplied by."""


def rate_factor(trainer: L.Trainer, module: Any) -> float:
    """What the rate of the next step is multiplied by, all callbacks together."""
    callbacks: list[object] = trainer.callbacks  # type: ignore[attr-defined]
    return prod(callback.rate_factor(trainer, module) for callback in callbacks if isinstance(callback, RateFactor))


def warm(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Let the next step use the scheduled rate times ``factor``; any number of times."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group[SCHEDULED] = scheduled_rate(group)
            group["lr"] = group[SCHEDULED] * factor


def unwarm(groups: Iterable[dict[str, Any]]) -> None:
    """Give parameter groups the rate of the schedule back."""
    for group in groups:
        group["lr"] = group.pop(SCHEDULED, group["lr"])


def unwarm_after_steps(optimizer: Optimizer) -> None:
    """Have that done after each step of the optimizer, before the schedule is stepped."""
    optimizer.register_step_post_hook(lambda stepped, *_: unwarm(stepped.param_groups))


def applied_rate(group: Mapping[str, Any], trainer: L.Trainer, module: Any) -> float:
    """The rate of a parameter group in the step at hand, or in the one to come where there is none."""
    return group["lr"] if SCHEDULED in group else group["lr"] * rate_factor(trainer, module)


def scheduled_rate(group: Mapping[str, Any]) -> float:
    """The rate that the schedule has set for a parameter group."""
    return group.get(SCHEDULED, group["lr"])
