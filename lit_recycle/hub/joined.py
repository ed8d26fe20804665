"""Tensors that lie in pieces, put together where they are needed: whole, or a section without reading the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import TypeAlias

import torch
from torch import Tensor


class Joined:
    """A tensor made of others along one dimension.

    Args:
        pieces: Each gives a piece when it is called, and is called when its values are needed.
        dimension: Along which they lie.
        stacked: The dimension is a new one, which the pieces do not have; these are of one shape.
    """

    def __init__(self, pieces: Sequence[Callable[[], Value]], dimension: int = 0, stacked: bool = False) -> None:
        self.pieces, self.dimension, self.stacked = pieces, dimension, stacked

    @cached_property
    def _first(self) -> tuple[torch.Size, torch.dtype]:
        first = self.pieces[0]()
        return first.shape, first.dtype

    @property
    def dtype(self) -> torch.dtype:
        return self._first[1]

    @cached_property
    def shape(self) -> torch.Size:
        sizes = list(self._first[0])
        if self.stacked:
            sizes.insert(self.dimension, len(self.pieces))
        else:
            sizes[self.dimension] = sum(self._lengths)
        return torch.Size(sizes)

    @cached_property
    def _lengths(self) -> list[int]:
        return [self._first[0][self.dimension], *(piece().shape[self.dimension] for piece in self.pieces[1:])]

    def narrow(self, dimension: int, start: int, length: int) -> Value:
        """A section, as :meth:`torch.Tensor.narrow` gives it."""
        if length == 0:
            return torch.empty([0 if i == dimension else n for i, n in enumerate(self.shape)], dtype=self.dtype)
        if dimension != self.dimension:
            below = dimension - (self.stacked and dimension > self.dimension)
            sections = [partial(_section, piece, below, start, length) for piece in self.pieces]
            return Joined(sections, self.dimension, self.stacked)
        if self.stacked:
            return Joined(self.pieces[start : start + length], dimension, stacked=True)
        found, position = [], 0
        for piece, size in zip(self.pieces, self._lengths, strict=True):
            begin, end = max(start - position, 0), min(start + length - position, size)
            if begin < end:
                found.append(partial(_section, piece, dimension, begin, end - begin))
            position += size
        return Joined(found, dimension)

    def write(self, target: Tensor) -> None:
        """Put the values into ``target``, piece by piece."""
        position = 0
        for piece in self.pieces:
            value = piece()
            if self.stacked:
                place, position = target.select(self.dimension, position), position + 1
            else:
                length = value.shape[self.dimension]
                place, position = target.narrow(self.dimension, position, length), position + length
            put(place, value)


Value: TypeAlias = Tensor | Joined
"""A tensor, or one in pieces."""


def _section(piece: Callable[[], Value], dimension: int, start: int, length: int) -> Value:
    return piece().narrow(dimension, start, length)


def checked_shape(value: Value) -> torch.Size:
    """Its shape, once its pieces have been held against each other.

    Raises:
        ValueError: For pieces that do not fit together.
    """
    if isinstance(value, Tensor):
        return value.shape
    shapes = [checked_shape(piece()) for piece in value.pieces]
    across = [[n for i, n in enumerate(s) if value.stacked or i != value.dimension] for s in shapes]
    if other := next((s for s, a in zip(shapes, across, strict=True) if a != across[0]), None):
        raise ValueError(f"it is made of tensors of the shapes {list(shapes[0])} and {list(other)}")
    return value.shape


def put(target: Tensor, value: Value) -> None:
    """Copy values into a tensor of their shape.

    Raises:
        ValueError: For another shape.
    """
    if value.shape != target.shape:
        raise ValueError(f"a piece has shape {list(value.shape)}, and its place is {list(target.shape)}")
    if isinstance(value, Joined):
        value.write(target)
    else:
        target.copy_(value)


def whole(value: Value) -> Tensor:
    """All of it, in memory of its own where it lies in pieces."""
    if isinstance(value, Tensor):
        return value
    tensor = torch.empty(value.shape, dtype=value.dtype)
    value.write(tensor)
    return tensor
