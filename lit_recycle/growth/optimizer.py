"""The state of an optimizer, grown by the same map as the weights that it belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from lit_recycle.growth.engine import each_source
from lit_recycle.growth.event import OptimizerPolicy
from lit_recycle.growth.names import Naming, Place
from lit_recycle.growth.plan import GrowthPlan
from lit_recycle.growth.shards import ExpertRows, gather_experts

ParamState = dict[str, Any]
"""What an optimizer keeps of one parameter: tensors of its shape and scalars."""

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
}
"""To which power of the gradient each kind of state is proportional."""


def grow_optimizer_state(
    plan: GrowthPlan,
    naming: Naming,
    states: MutableMapping[str, ParamState],
    policy: OptimizerPolicy,
    optimizer: str,
) -> dict[str, ParamState]:
    """State of the grown model's parameters by name; see :func:`each_grown_state`."""
    return dict(each_grown_state(plan, naming, states, policy, optimizer))


def each_grown_state(
    plan: GrowthPlan,
    naming: Naming,
    states: MutableMapping[str, ParamState],
    policy: OptimizerPolicy,
    optimizer: str,
) -> Iterator[tuple[str, ParamState]]:
    """Names and state of the grown model's parameters, one at a time. Sources leave ``states`` after their last use.

    Args:
        plan: The source map.
        naming: How the parameters are named.
        states: State by parameter name, as it was before the growth.
        policy: ``carry`` gives copies their source's state; ``fresh_copies`` zeros; ``reset`` gives nobody any. Where
            a growth splits the gradient of an expert over its m duplicates, the state of all of them is scaled to
            describe the new gradient: first moments by 1/m, second moments by 1/m².
        optimizer: The optimizer's name, for errors.

    Raises:
        ValueError: For a state tensor that is neither a scalar nor of its parameter's shape, or that belongs to a
            split gradient and is of unknown kind.
    """
    if policy == "reset":
        states.clear()
    for place, state in each_source(plan, naming, states):
        grown = {key: _grow_value(plan, place, state, key, policy == "fresh_copies", optimizer) for key in state}
        yield place.name, grown


def check_optimizer_state(states: Mapping[str, ParamState], shapes: Mapping[str, torch.Size], optimizer: str) -> None:
    """Refuse state that cannot be grown, before anything is.

    Raises:
        ValueError: For state that is neither a scalar nor a tensor of its parameter's shape.
    """
    for name, state in states.items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                growable, what = value.dim() == 0 or value.shape == shapes[name], f"of shape {tuple(value.shape)}"
            else:
                growable, what = value is None or isinstance(value, (int, float)), f"as a {type(value).__name__}"
            if not growable:
                raise ValueError(
                    f"{optimizer} keeps {key!r} {what} for {name} of shape {tuple(shapes[name])}, which cannot be "
                    "grown along with it: use optimizer_state: reset, or an optimizer with per-element state such as "
                    "AdamW"
                )


def _grow_value(plan: GrowthPlan, place: Place, state: ParamState, key: str, fresh: bool, optimizer: str) -> Any:
    assert place.expert is None, "a parameter holds all experts of its layer"
    value = state[key]
    if place.layer is None or not isinstance(value, Tensor):
        return value
    if value.dim() > 0 and place.role.expert_axis and plan.grows_experts(place.layer):
        power = _gradient_power(key, state, optimizer)
        return gather_experts(
            value, plan.experts[place.layer], lambda rows: _treat_rows(plan, place, rows, power, fresh)
        )
    if not plan.is_layer_copy(place.layer):
        return value
    return torch.zeros_like(value) if fresh else value.clone()


def _treat_rows(plan: GrowthPlan, place: Place, rows: ExpertRows, power: int, fresh: bool) -> None:
    layer = place.layer
    assert layer is not None
    factors = [
        0.0
        if fresh and (plan.is_layer_copy(layer) or plan.is_expert_copy(layer, e))
        else plan.multiplicity(layer, e) ** -power
        for e in rows.experts
    ]
    shape = (-1,) + (1,) * (rows.values.dim() - 1)
    rows.values.mul_(torch.tensor(factors, dtype=rows.values.dtype, device=rows.values.device).view(shape))


def _gradient_power(key: str, state: ParamState, optimizer: str) -> int:
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
    groups, numbers = [], {}
    for group in named["param_groups"]:
        ids = range(len(numbers), len(numbers) + len(group["param_names"]))
        numbers |= dict(zip(group["param_names"], ids, strict=True))
        groups.append(group | {"params": list(ids)})
    return {"state": {numbers[n]: state for n, state in named["state"].items()}, "param_groups": groups}
