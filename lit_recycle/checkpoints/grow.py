"""Growth of a checkpoint of this project on disk, without a trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.native import load_whole_checkpoint, trained_weights
from lit_recycle.checkpoints.sharded import MASKS, WEIGHTS
from lit_recycle.destination import check_destination, check_room
from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.event import Form, GrowthEvent, Trigger, operators_of
from lit_recycle.growth.facts import Unmeasured
from lit_recycle.growth.history import GrowthRecord
from lit_recycle.growth.least_size import least_size
from lit_recycle.growth.masks import apply_masks, grow_masks
from lit_recycle.growth.measure import weight_facts
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.optimizer import check_optimizer_state, grow_optimizer_state, name_state, number_state
from lit_recycle.growth.plan import GrowthPlan, plan_growth
from lit_recycle.growth.policy import OptimizerPolicy
from lit_recycle.growth.schedule import Progress
from lit_recycle.growth.shape import Shape
from lit_recycle.hub.shape import shape_of as shape_of_ours


def grow_checkpoint(
    src: Path,
    dst: Path,
    *forms: Form,
    seed: int = 0,
    optimizer_state: OptimizerPolicy = "carry",
    maps: Sequence[Mapping[str, Any]] | None = None,
    expect: Callable[[int], None] = lambda nbytes: None,
    shape_of: Callable[[dict[str, Any]], Shape] = shape_of_ours,
) -> None:
    """Grow a checkpoint as the callback grows a run: weights, optimizer state and history; training goes on from it.

    Args:
        src: A checkpoint of this project.
        dst: Where the grown one is written; must not exist.
        *forms: Operators, or their short forms, one after the other.
        seed: Seed of all that is random.
        optimizer_state: What becomes of the optimizer's state; see :class:`GrowthEvent`.
        maps: The maps that another growth has recorded, for operators that choose by what only a run knows.
        expect: Called with a number of bytes that the weights have at least, before a plan that takes long is made.
        shape_of: The shape that :meth:`Shape.to_dict` has given these values for, in a checkpoint of one's own module.

    Raises:
        ValueError: For a source that cannot be read or grown, a destination that exists, or a disk with too little room
            for what is surely too large.
    """
    src, dst = Path(src), Path(dst)
    check_destination(dst)
    checkpoint = load_whole_checkpoint(src)
    saved, weights, operators = checkpoint["hyper_parameters"], trained_weights(checkpoint), operators_of(forms)

    def find_room(nbytes: int) -> None:
        check_room(dst, nbytes, at_least=True)
        expect(nbytes)

    plan = plan_checkpoint_growth(checkpoint, *operators, seed=seed, maps=maps, expect=find_room, shape_of=shape_of)
    counters = checkpoint.get("progress", {})
    progress = Progress(
        checkpoint.get("global_step", 0), counters.get("tokens_seen", 0), counters.get("flops_spent", 0)
    )
    event = GrowthEvent(Trigger(steps=progress.steps), grow=operators, optimizer_state=optimizer_state)
    record = GrowthRecord.of(event, progress, plan, weights)
    states = checkpoint.get("optimizer_states", [])
    checkpoint["optimizer_states"] = [_grow_optimizer(plan, s, weights, optimizer_state) for s in states]
    for key in checkpoint.keys() & WEIGHTS:
        checkpoint[key] = dict(grow_tensors(plan, dict(checkpoint[key])))
    if MASKS in checkpoint:
        checkpoint[MASKS] = grow_masks(plan, checkpoint[MASKS])
        apply_masks(trained_weights(checkpoint), checkpoint[MASKS])  # noise on copies is over pruned weights, too
    checkpoint["hyper_parameters"] = saved | {
        "config": record.after,
        "growth": [*saved["growth"], record.to_dict()],
    }
    save(checkpoint, dst)


def plan_checkpoint_growth(
    checkpoint: Mapping[str, Any],
    *forms: Form,
    seed: int = 0,
    maps: Sequence[Mapping[str, Any]] | None = None,
    expect: Callable[[int], None] = lambda nbytes: None,
    shape_of: Callable[[dict[str, Any]], Shape] = shape_of_ours,
) -> GrowthPlan:
    """Plan a growth of a checkpoint that is loaded; see :func:`grow_checkpoint`."""
    saved, weights = checkpoint["hyper_parameters"], trained_weights(checkpoint)
    shape, operators = shape_of(saved["config"]), operators_of(forms)
    if maps is None:
        per_parameter = sum(tensor.nbytes for tensor in weights.values()) / shape.num_params()
        expect(least_size(shape, operators, lambda small: _nbytes(shape, small, per_parameter)))
    return plan_growth(
        shape,
        operators,
        seed=seed,
        event=len(saved["growth"]),
        facts=lambda model: weight_facts(model, weights),
        maps=maps,
    )


def _nbytes(shape: Shape, operators: Sequence[Operator], per_parameter: float) -> int:
    """Bytes of the weights alone of what operators make of a model."""
    after = plan_growth(shape, operators, facts=Unmeasured).after
    assert isinstance(after, Shape)
    return int(after.num_params() * per_parameter)


def _grow_optimizer(
    plan: GrowthPlan, saved: dict[str, Any], weights: dict[str, torch.Tensor], policy: OptimizerPolicy
) -> dict[str, Any]:
    """An optimizer's ``state_dict``, grown."""
    named = name_state(saved)
    if policy != "reset":
        check_optimizer_state(named["state"], {name: t.shape for name, t in weights.items()}, "the optimizer")
    groups = [group | {"param_names": plan.parameters(group["param_names"])} for group in named["param_groups"]]
    state = grow_optimizer_state(plan, named["state"], policy, "the optimizer")
    return number_state({"state": state, "param_groups": groups})
