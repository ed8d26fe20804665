"""Optimizer state, grown by the same recipes as the weights that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lit_recycle.growth.axes import EXPERTS
from lit_recycle.growth.carry_out import Grown, carry_out, own
from lit_recycle.growth.engine import scale, taken, treat, treatments_of
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.policy import OptimizerPolicy
from lit_recycle.growth.recipe import Recipe
from lit_recycle.growth.sources import AnyMap, AxisMap

ParamState = dict[str, Any]
"""What an optimizer keeps of one parameter: tensors of its shape and scalars."""

GrownState = dict[str, Grown]
OptimizerState = dict[str, Any]
"""``state``: by parameter name; ``param_groups``: options, with the parameters' names under ``param_names``."""

GRADIENT_POWER = {
    "exp_avg": 1,  # Adam and its kin, Lion
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,  # AMSGrad
    "exp_inf": 1,  # Adamax
    "momentum_buffer": 1,  # SGD, Muon
    "square_avg": 2,  # RMSprop, Adadelta
    "grad_avg": 1,  # centred RMSprop
    "acc_delta": 0,  # Adadelta: squared updates
    "sum": 2,  # Adagrad
    "prev": 1,  # Rprop
    "step_size": 0,
    "row_var": 2,  # Adafactor: means of squared gradients over the last dimension
    "col_var": 2,  # and over the one before it
    "variance": 2,
    "pruned": 0,  # no optimizer's: masks of weights that are held at zero, which grow likewise
}
"""To which power of the gradient each kind of state is proportional."""


def grow_optimizer_state(
    plan: GrowthPlan, states: MutableMapping[str, ParamState], policy: OptimizerPolicy, optimizer: str
) -> dict[str, ParamState]:
    """State of the grown model's parameters by name; see :func:`each_grown_state`."""
    return dict(each_grown_state(plan, states, policy, optimizer))


def each_grown_state(
    plan: GrowthPlan, states: MutableMapping[str, ParamState], policy: OptimizerPolicy, optimizer: str
) -> Iterator[tuple[str, ParamState]]:
    """Names and state of the grown model's parameters, one at a time. Sources leave ``states`` after their last use.

    Args:
        plan: The plan.
        states: State by parameter name, as it was before the growth.
        policy: ``carry`` gives copies their source's state; ``fresh_copies`` zeros; ``reset`` gives nobody any. Where
            a growth divides the gradient of an entry among its m copies, the state of all of them is scaled to
            describe the new gradient: first moments by 1/m, second moments by 1/m².
        optimizer: The optimizer's name, for errors.

    Raises:
        ValueError: For state of unknown kind that belongs to a divided gradient.
    """
    if policy == "reset":
        states.clear()

    def enter(state: ParamState | None) -> GrownState | None:
        return None if state is None else {key: Grown(value, False) for key, value in state.items()}

    def make(recipe: Recipe, sources: list[GrownState | None]) -> GrownState | None:
        return grow_state(recipe, sources, policy, optimizer)

    for name, grown, is_first in carry_out(plan, states, enter, make):
        if grown is not None:
            yield name, {key: own(value, is_first) for key, value in grown.items()}


def grow_state(
    recipe: Recipe, sources: list[GrownState | None], policy: OptimizerPolicy, optimizer: str
) -> GrownState | None:
    """The state of a recipe's target, from that of its sources; None where one of them has none."""
    states = [source for source in sources if source is not None]
    if recipe.target.axes.is_buffer or len(states) < len(sources):
        return None  # as long as a parameter is frozen an optimizer keeps nothing of it
    return {key: _grow_value(recipe, states, key, policy == "fresh_copies", optimizer) for key in states[0]}


def check_optimizer_state(states: Mapping[str, ParamState], shapes: Mapping[str, torch.Size], optimizer: str) -> None:
    """Refuse state that cannot be grown, before anything is.

    Raises:
        ValueError: For state that is neither a scalar nor a tensor of its parameter's shape, or of that shape with
            some dimensions reduced to one, as in factored state.
    """
    for name, state in states.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                growable, what = _fits(value.shape, shapes[name]), f"of shape {tuple(value.shape)}"
            else:
                growable, what = value is None or isinstance(value, (int, float)), f"as a {type(value).__name__}"
            if not growable:
                raise ValueError(
                    f"{optimizer} keeps {key!r} {what} for {name} of shape {tuple(shapes[name])}, which cannot be "
                    "grown along with it: use optimizer_state: reset, or an optimizer with per-element state such as "
                    "AdamW"
                )


def _fits(shape: torch.Size, parameter: torch.Size) -> bool:
    return not shape or (
        len(shape) == len(parameter) and all(n in (1, whole) for n, whole in zip(shape, parameter, strict=True))
    )


def _grow_value(recipe: Recipe, sources: list[GrownState], key: str, fresh: bool, optimizer: str) -> Grown:
    held = [source[key] for source in sources if key in source]
    value, layer = held[0].value, recipe.target.layer
    if not isinstance(value, Tensor):
        return held[0]
    is_copy = layer is not None and recipe.step.sources.layer_copies[layer]
    if (fresh and is_copy) or recipe.shape is not None:  # a new parameter begins with nothing
        return Grown(torch.zeros_like(taken(recipe, held).value if value.dim() else value), True)
    if value.dim() == 0:
        return held[0]
    assert recipe.target.expert is None, "a parameter holds all experts of its layer"
    state = {name: part.value for name, part in sources[0].items()}
    grown = taken(recipe, held)
    for i, axis, mapped in divided(recipe):
        if power := gradient_power(key, state, optimizer):
            scale(recipe, grown.value, i, axis, mapped, partial(_shares, power=power))
    wanted = [[t for t in treatments if t.touches_state] for treatments in treatments_of(recipe)]
    known = GRADIENT_POWER.get(key)
    grown = treat(recipe, grown, wanted, lambda treatment, part: treatment.apply_to_state(part, known))
    if fresh:
        for i, axis, mapped in recipe.takes:
            scale(recipe, grown.value, i, axis, mapped, lambda m: [0.0 if copy else 1.0 for copy in m.copies])
    return grown


def _shares(mapped: AxisMap, power: int) -> list[float]:
    return [m**-power for m in mapped.multiplicities]


def divided(recipe: Recipe) -> Iterator[tuple[int, str, AnyMap]]:
    """The dimensions along which copies share a gradient."""
    maps = recipe.takes
    if recipe.splits_dense:
        slices, i = recipe.step.sources.experts(recipe.target.layer), recipe.target.axes.expert_dimension
        maps = [] if slices is None or i is None else [(i, EXPERTS, slices)]
    for i, axis, mapped in maps:
        if not recipe.target.axes.dimensions[i].summed and mapped.has_copies:
            yield i, axis, mapped


def gradient_power(key: str, state: ParamState, optimizer: str) -> int:
    """To which power of the gradient a kind of state is proportional; ``ValueError`` where that is not known."""
    if key == "momentum_buffer" and "square_avg" in state:
        return 0  # RMSprop's momentum adds up updates, which are normalised; it shares its name with SGD's
    if key not in GRADIENT_POWER:
        raise ValueError(
            f"cannot tell how {key!r} of {optimizer} scales with the gradient, so it cannot be carried through a "
            "growth in width: use optimizer_state: reset"
        )
    return GRADIENT_POWER[key]


def name_state(numbered: Mapping[str, Any]) -> OptimizerState:
    """torch's ``optimizer.state_dict()``, which goes by number, by name.

    Raises:
        ValueError: For an optimizer that was not made from named parameters.
    """
    groups = numbered["param_groups"]
    if any("param_names" not in group for group in groups):
        raise ValueError("the optimizer's state does not name its parameters, and cannot be read by name")
    names = {i: name for group in groups for i, name in zip(group["params"], group["param_names"], strict=True)}
    state = {names[i]: dict(numbered["state"][i]) for i in names if i in numbered["state"]}
    return {"state": state, "param_groups": [{k: v for k, v in g.items() if k != "params"} for g in groups]}


def number_state(named: OptimizerState) -> dict[str, Any]:
    """The way back: parameters are numbered through the groups."""
    groups, numbers = list[dict[str, Any]](), dict[str, int]()
    for group in named["param_groups"]:
        ids = range(len(numbers), len(numbers) + len(group["param_names"]))
        numbers |= dict(zip(group["param_names"], ids, strict=True))
        groups.append(group | {"params": list(ids)})
    return {"state": {numbers[n]: state for n, state in named["state"].items()}, "param_groups": groups}
