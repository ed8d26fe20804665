"""Least size of a grown model, from small growths: known before the maps of an absurd one fill the memory. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from lit_recycle.growth.operator import GrowableModel, Operator

ENOUGH = 32
"""How often an entry may stand in a grown model before its size is estimated first."""
MULTIPLES = ("factor", "times")
COUNTS = ("num_layers", "num_experts", "size")


class _Large(NamedTuple):
    """A large number of an operator, by its key, and two small ones for which the operator could be done as well."""

    key: str
    value: int
    low: int
    high: int


def least_size(model: GrowableModel, operators: Sequence[Operator], size: Callable[[Sequence[Operator]], int]) -> int:
    """A size that the grown model has at least; 0 where no number of an operator is large, or none can be tried small.

    A size is a sum of products of the operators' numbers, none of them negative. So it is convex in each, and lies
    above the line through its values for two smaller numbers.

    Args:
        model: The model.
        operators: What is done to it, one after the other.
        size: Size of the model that operators make of it, in any unit.
    """
    large = [_large(model, operator) for operator in operators]
    small = [replace(o, **{n.key: n.low}) if n else o for o, n in zip(operators, large, strict=True)]  # type: ignore[type-var]
    found = 0
    try:
        for i, number in enumerate(large):
            if number is not None:
                higher = [*small]
                higher[i] = replace(small[i], **{number.key: number.high})  # type: ignore[type-var]
                low = size(small)
                slope = (size(higher) - low) / (number.high - number.low)
                found = max(found, low + int((number.value - number.low) * slope))
    except ValueError:  # the plan itself says what is wrong, of the numbers that were given
        return 0
    return found


def _large(model: GrowableModel, operator: Operator) -> _Large | None:
    for key in (*MULTIPLES, *COUNTS):
        value = getattr(operator, key, None)
        unit = 1 if key in MULTIPLES or value is None else _entries(model, operator, key)
        if isinstance(value, int) and value > ENOUGH * unit:
            return _Large(key, value, 2 * unit, 3 * unit)
    return None


def _entries(model: GrowableModel, operator: Operator, key: str) -> int:
    """Entries of what is counted by a key; where there are none yet, the least number of experts to be made."""
    if key == "num_layers":
        return model.num_layers
    axes = [axis for axis in operator.axes.split() if axis != "layers"]
    sizes = [model.size(axis, layer) for axis in axes for layer in range(model.num_layers)]
    first = getattr(operator, "granularity", 1) * len(getattr(operator, "shares", (1.0,)))
    return max(sizes, default=0) or first * (getattr(operator, "top_k", None) or 1)
