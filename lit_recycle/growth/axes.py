"""Axis names of a tensor, written as one string: ``"down: E D+ F*"``, ``"([gate up] F) D*"``. No torch.

Dimensions stand in order, divided by spaces. The letters are

    V vocabulary   D hidden size   H query heads   G key and value heads   P size of a head
    E routed experts   F inner width of an expert   S of the shared expert   I of a dense network

and any other word is an axis that no growth touches. ``(H P)`` is one dimension of two axes, the first one the slower;
``[gate up]`` are matrices stacked along a dimension; ``...`` at the end stands for whatever follows. Marks say what
becomes of a dimension when the tensor is applied:

    ``D*``  it is summed over: an input that has m copies enters with 1/m of the weight each
    ``D+``  the result is added to the residual stream: zero here makes the layer an identity

A word and a colon in front name the matrix, where the dimensions do not. ``residual:`` is a number that the residual
stream is multiplied by.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import prod

EXPERTS = "E"
EXPERT_WIDTH = "F"
DENSE_WIDTH = "I"
SUMMED, RESIDUAL = "*", "+"
_FACTOR = r"(?:\w+|\[[\w ]+\])"
_DIMENSION = re.compile(rf"(?:\((?P<group>{_FACTOR}(?: {_FACTOR})*)\)|(?P<axis>\w+))(?P<mark>[*+]?)")


@dataclass(frozen=True)
class Dimension:
    """One dimension of a tensor.

    Args:
        factors: Axes that it is made of, the slowest first; a tuple of names stands for stacked matrices.
        mark: ``*``, ``+`` or nothing; see the module.
    """

    factors: tuple[str | tuple[str, ...], ...]
    mark: str = ""

    @property
    def summed(self) -> bool:
        return self.mark == SUMMED

    def indices(self, axis: str, size: int, sources: Sequence[int], length: int) -> list[int]:
        """Where each index of the grown dimension comes from, when ``axis`` of ``size`` entries is mapped.

        Args:
            axis: One of the factors.
            size: Its entries before the growth.
            sources: The entry that each grown one comes from.
            length: Length of the whole dimension before the growth.
        """
        outer, inner = self._blocks(axis, size, length)
        return [(o * size + s) * inner + i for o in range(outer) for s in sources for i in range(inner)]

    def repeated(self, axis: str, values: Sequence[float], length: int) -> list[float]:
        """A value for each index of the dimension, of ``length``, from one for each entry of ``axis``."""
        outer, inner = self._blocks(axis, len(values), length)
        return [value for _ in range(outer) for value in values for _ in range(inner)]

    def _blocks(self, axis: str, size: int, length: int) -> tuple[int, int]:
        """Stacked matrices before the axis, and indices per entry of it."""
        outer = prod(len(factor) for factor in self.factors[: self.factors.index(axis)] if isinstance(factor, tuple))
        inner = length // (outer * size)
        assert outer * size * inner == length, f"{self} of {length} does not divide into {size} {axis}"
        return outer, inner


@dataclass(frozen=True)
class TensorAxes:
    """The dimensions of a tensor by name.

    Args:
        dimensions: In order.
        label: The matrix: ``gate``, ``up``, ``down``, ``router``, ``balance``, ``residual``; empty where the
            dimensions say it.
        known: False for a tensor that no table describes.
    """

    dimensions: tuple[Dimension, ...] = ()
    label: str = ""
    known: bool = True

    @cached_property
    def expert_dimension(self) -> int | None:
        """The dimension that runs over routed experts."""
        return next((i for i, d in enumerate(self.dimensions) if d.factors == (EXPERTS,)), None)

    @cached_property
    def cell(self) -> TensorAxes:
        """The axes of one expert's part."""
        rest = (d for i, d in enumerate(self.dimensions) if i != self.expert_dimension)
        return TensorAxes(tuple(rest), self.label, self.known)

    @cached_property
    def matrices(self) -> tuple[str, ...]:
        """Names of the matrices that are stacked in the tensor; empty for vectors without a name."""
        stacked = (f for d in self.dimensions for f in d.factors if isinstance(f, tuple))
        return next(stacked, (self.label,) if self.label else ())

    @cached_property
    def stack(self) -> tuple[int, bool] | None:
        """The dimension along which matrices are stacked, and whether they alternate in it; None for one matrix."""
        for i, dimension in enumerate(self.dimensions):
            for place, factor in enumerate(dimension.factors):
                if isinstance(factor, tuple):
                    return i, place > 0
        return None

    @cached_property
    def writes_residual(self) -> bool:
        return any(d.mark == RESIDUAL for d in self.dimensions)

    @property
    def scales_residual(self) -> bool:
        """Whether the residual stream is multiplied by it: one here makes it nothing."""
        return self.label == "residual"

    @property
    def is_buffer(self) -> bool:
        """Whether it is no parameter: a balancing bias or a factor of the residual stream."""
        return self.label in ("balance", "residual")

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(f for d in self.dimensions for f in d.factors if isinstance(f, str))


UNKNOWN = TensorAxes(known=False)


@cache
def parse_axes(text: str) -> TensorAxes:
    """Read an axis string.

    Raises:
        ValueError: For a string that is none.
    """
    label, colon, body = text.partition(":")
    if not colon:
        label, body = "", text
    words = re.findall(r"\([^()]*\)\S*|\S+", body)
    if words and words[-1] == "...":
        words.pop()
    return TensorAxes(tuple(_dimension(word, text) for word in words), label.strip())


def _dimension(word: str, text: str) -> Dimension:
    match = _DIMENSION.fullmatch(word)
    if match is None:
        raise ValueError(f"{text!r} is no axis string: {word!r} is not understood; write it as in '([gate up] F) D*'")
    factors: list[str | tuple[str, ...]] = []
    for part in re.findall(r"\[[^\]]*\]|\S+", match["group"] or match["axis"]):
        factors.append(tuple(part[1:-1].split()) if part.startswith("[") else part)
    return Dimension(tuple(factors), match["mark"])
