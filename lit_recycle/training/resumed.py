"""What a resumed run goes on with, whatever its configuration says: torch restores arguments together with state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_recycle.addresses import Place

INDIFFERENT = frozenset(("lr", "foreach", "fused", "capturable", "differentiable"))
"""Options of a group that change with the schedule (what it began with is in ``initial_lr``), or no result."""


def check_schedule(schedule: LRScheduler, saved: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` for a schedule that would go on with other arguments than it is given: a checkpoint's.

    Arguments that a schedule does not keep in its state, as :class:`WarmupStableDecay`, are those it is given.
    """
    kept, name = schedule.state_dict(), type(schedule).__name__
    way_out = (
        "; lit_recycle.training.schedules.WarmupStableDecay goes by what it is given, and model.init_from begins anew"
    )
    for key in signature(type(schedule)).parameters:
        if key == "last_epoch" or key not in kept:
            continue
        if key not in saved:
            raise ValueError(f"model.lr_scheduler is {name}, and the checkpoint's is another: set it to that{way_out}")
        if saved[key] != kept[key]:
            raise ValueError(
                f"model.lr_scheduler.{key} is {kept[key]}, and {name} would go on with the checkpoint's {saved[key]}: "
                f"set it to that{way_out}"
            )


def saved_groups(checkpoint: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Groups of the optimizer in a checkpoint, a file or what is no tensor of a folder; none if it has no optimizer."""
    saved = checkpoint.get("optimizer_states") or checkpoint.get("optimizers") or [{}]
    return saved[0].get("param_groups", [])


def check_goes_on(path: Place, checkpoint: Mapping[str, Any]) -> None:
    """Raises ``ValueError`` for weights alone from within a run, which would go on with a schedule from its beginning.

    They are of ``merge`` and ``merge-branches``, or of a ``ModelCheckpoint`` that saves no more.
    """
    if checkpoint["global_step"] and not saved_groups(checkpoint):
        raise ValueError(
            f"{path} is of step {checkpoint['global_step']} and has no optimizer state: go on from a checkpoint that "
            "has it, or begin a run with these weights: model.config null and model.init_from instead of --ckpt_path"
        )


def changed_options(optimizer: Optimizer, saved: Iterable[Mapping[str, Any]]) -> list[str]:
    """In words, the options of an optimizer's groups that a checkpoint has otherwise, and goes on with."""
    found = []
    for group, was in zip(optimizer.param_groups, saved, strict=False):
        cycled = {"betas", "momentum"} if "max_momentum" in was else set()  # by the schedule
        for key in ("initial_lr", *sorted(optimizer.defaults.keys() - INDIFFERENT - cycled)):
            own, theirs = (tuple(v) if isinstance(v, list) else v for v in (group.get(key), was.get(key)))
            if key in group and key in was and own != theirs:
                found.append(f"{key.removeprefix('initial_')} {theirs}, not {own}")
    return [*dict.fromkeys(found)]
