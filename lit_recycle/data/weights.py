"""Weights of a mixture as whole numbers, so that shares are exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

LARGEST_SUM = 2**31
"""Products of two numbers below it fit into 64 bits."""


def proportions(weights: Sequence[float]) -> tuple[int, ...]:
    """The smallest whole numbers that are to each other as the weights are, in decimal notation: 0.7, 0.3 → 7, 3.

    Raises:
        ValueError: a weight is negative, all are zero, or they have too many digits.
    """
    if any(not 0 <= weight < math.inf for weight in weights):
        raise ValueError(f"weights of data sources must not be negative, got {list(weights)}")
    exact = [Fraction(repr(weight)) for weight in weights]
    if not any(exact):
        raise ValueError("data sources need at least one weight above zero")
    denominator = math.lcm(*(weight.denominator for weight in exact))
    whole = [int(weight * denominator) for weight in exact]
    divisor = math.gcd(*whole)
    if sum(whole) // divisor >= LARGEST_SUM:
        raise ValueError(f"weights of data sources have too many digits: round {list(weights)}")
    return tuple(weight // divisor for weight in whole)
