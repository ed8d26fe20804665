"""Parameter groups of an optimizer: matrices, vectors without weight decay, and what regular expressions choose."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from lit_recycle.growth.axes import TensorAxes
from lit_recycle.growth.names import Naming
from lit_recycle.growth.optimizer import name_state, number_state

Group = dict[str, Any]
OWN_KEYS = ("pattern", "name")
HINTS = ("axes", "algorithm")


def check_param_groups(groups: Sequence[Mapping[str, Any]]) -> None:
    """Look at the groups that a user has written, without parameters or an optimizer.

    Raises:
        ValueError: Naming the key under ``model.param_groups``.
    """
    for i, group in enumerate(groups):
        where, pattern = f"model.param_groups[{i}]", group.get("pattern")
        if not isinstance(pattern, str):
            raise ValueError(f"{where} needs a pattern, a regular expression that is looked for in parameters' names")
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"{where}.pattern {pattern!r} is no regular expression: {error}") from error
        if len(group) == 1 or (len(group) == 2 and "name" in group):
            raise ValueError(f"{where} of pattern {pattern!r} says nothing of its parameters: give lr, weight_decay, …")
        if given := {"params", "param_names", "axes"} & group.keys():
            raise ValueError(
                f"{where}.{min(given)} is not to be given: the pattern chooses the parameters; leave it out"
            )
        betas = group.get("betas", ())
        if not isinstance(betas, list | tuple) or any(not isinstance(b, int | float) or not 0 <= b < 1 for b in betas):
            raise ValueError(f"{where}.betas must be numbers in 0..1, 1 excluded, got {betas!r}")
        for key in ("lr", "weight_decay", "eps", "momentum"):
            value = group.get(key, 0.0)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{where}.{key} must be a finite number and not negative, got {value!r}")
    names = [group_name(group) for group in groups]
    if len(set(names)) < len(names) or {"matrices", "vectors"} & set(names):
        raise ValueError(
            f"the groups of model.param_groups are called {', '.join(names)}: give each a name of its own, other than "
            "matrices and vectors"
        )


def group_name(group: Mapping[str, Any]) -> str:
    """What a group is called in logs."""
    return str(group.get("name", group["pattern"]))


def parameter_groups(
    named: Iterable[tuple[str, Tensor]],
    dims: Mapping[str, int],
    naming: Naming,
    wanted: Sequence[Mapping[str, Any]],
) -> list[Group]:
    """Groups for an optimizer, in an order and number that follow from ``wanted`` alone; some may be empty.

    Args:
        named: Parameters by name, which may be flat slices.
        dims: How many dimensions they have undivided; their own number for those that are not there.
        naming: What axes they have.
        wanted: What the user has written. A parameter belongs to the first group whose pattern is found in its name;
            all others to the last two groups, matrices and vectors. Where a group does not say its weight decay, its
            vectors form one of their own that has none.

    Returns:
        Groups with the hints ``axes``, by name, and, for vectors, ``algorithm``: an optimizer that does not know a hint
        is to be freed of it by :func:`settle`.
    """
    groups: list[Group] = []
    chosen: list[list[tuple[str, Tensor]]] = [[] for _ in (*wanted, None)]
    for name, param in named:
        chosen[_chosen(name, wanted)].append((name, param))
    for group, members in zip((*wanted, None), chosen, strict=True):
        options = {key: value for key, value in (group or {}).items() if key not in OWN_KEYS}
        label = group_name(group) if group else "matrices"
        if "weight_decay" in options:
            groups.append(_group(members, naming, name=label, **options))
            continue
        vectors = [(name, p) for name, p in members if _is_vector(dims.get(name, p.dim()), naming.parse(name).axes)]
        names = {name for name, _ in vectors}
        matrices = [(name, p) for name, p in members if name not in names]
        groups.append(_group(matrices, naming, name=label, **options))
        options |= {"algorithm": "adamw", "weight_decay": 0.0}
        groups.append(_group(vectors, naming, name=f"{label}/vectors" if group else "vectors", **options))
    return groups


def _is_vector(dims: int, axes: TensorAxes) -> bool:
    """Whether it is a vector, or one for each expert, which is applied by no product."""
    of_experts = axes.expert_dimension is not None and not any(dimension.summed for dimension in axes.dimensions)
    return dims - of_experts <= 1


def check_chosen(shapes: Iterable[Iterable[str]], wanted: Sequence[Mapping[str, Any]]) -> None:
    """Look whether each pattern chooses a parameter at some time of a run.

    Args:
        shapes: Names of the parameters, in each shape that the model has had or will have; looked at as long as needed.
        wanted: What the user has written.

    Raises:
        ValueError: For a pattern that is found in no name, or only in those that earlier ones have taken.
    """
    missing, remaining = set(range(len(wanted))), iter(shapes)
    while missing and (names := next(remaining, None)) is not None:
        missing -= {_chosen(name, wanted) for name in names}
    if missing:
        raise ValueError(
            f"model.param_groups: the pattern {wanted[min(missing)]['pattern']!r} chooses no parameter: it is found "
            "in no name such as model.layers.0.attn.q_proj.weight, or those where it is belong to a pattern before it"
        )


def _chosen(name: str, wanted: Sequence[Mapping[str, Any]]) -> int:
    """Number of the group that a parameter belongs to; -1 for none of them."""
    return next((i for i, group in enumerate(wanted) if re.search(group["pattern"], name)), -1)


def main_group(optimizer: Optimizer) -> Group:
    """The group of the matrices that no pattern has chosen: the one whose rate stands for the run's."""
    groups = optimizer.param_groups
    return next((group for group in groups if str(group.get("name")).startswith("matrices")), groups[0])


def settle(optimizer: Optimizer, wanted: Sequence[Mapping[str, Any]]) -> None:
    """Free an optimizer's groups of hints that it does not know, and let it take over state by parameter names.

    Raises:
        ValueError: For options in ``wanted`` that the optimizer does not have.
    """
    for i, group in enumerate(wanted):
        for key in group:
            if key not in {*optimizer.defaults, *OWN_KEYS}:
                raise ValueError(
                    f"model.param_groups[{i}].{key}: {type(optimizer).__name__} has no such option for a group; it has "
                    + ", ".join(optimizer.defaults)
                )
    for group in optimizer.param_groups:
        for hint in set(HINTS) - optimizer.defaults.keys():
            group.pop(hint, None)
    optimizer.register_load_state_dict_pre_hook(_by_name)


def check_saved_groups(optimizer: Optimizer, saved: Sequence[Mapping[str, Any]]) -> None:
    """Raises ``ValueError`` for a checkpoint whose optimizer had another number of groups."""
    if len(saved) != len(optimizer.param_groups):
        raise ValueError(
            f"the checkpoint's optimizer has {len(saved)} groups of parameters, and this one "
            f"{len(optimizer.param_groups)}: go on with the model.param_groups that it was trained with, or start "
            "afresh from its weights with model.init_from"
        )


def _by_name(optimizer: Optimizer, numbered: dict[str, Any]) -> dict[str, Any]:
    """A saved state in the optimizer's own order: torch goes by numbers, and a growth on disk may number otherwise."""
    check_saved_groups(optimizer, numbered["param_groups"])
    saved = name_state(numbered)
    own = [
        options | {"param_names": g["param_names"]}
        for g, options in zip(optimizer.param_groups, saved["param_groups"], strict=True)
    ]
    if strange := saved["state"].keys() - {name for group in own for name in group["param_names"]}:
        raise ValueError(f"the checkpoint's optimizer has state of {min(strange)}, which is no parameter of this model")
    return number_state({"state": saved["state"], "param_groups": own})


def _group(members: list[tuple[str, Tensor]], naming: Naming, **options: Any) -> Group:
    group: Group = {"params": members, "axes": {name: naming.parse(name).axes for name, _ in members}, **options}
    return group if members else group | {"param_names": []}
