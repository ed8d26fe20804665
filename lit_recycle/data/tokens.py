"""Token ids on disk as one long sequence, memory-mapped, however many files they lie in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Piece(Protocol):
    """Part of a sequence that lies in one stretch.

    Attributes:
        path: the file.
        tokens: number of ids.
    """

    @property
    def path(self) -> Path: ...

    @property
    def tokens(self) -> int: ...

    def ids(self) -> np.ndarray:
        """All ids, a view of the mapped file; any integer type."""


@dataclass(frozen=True)
class FilePiece:
    """Ids of type `dtype` one after the other, from byte `offset` on."""

    path: Path
    dtype: str
    tokens: int
    offset: int = 0

    def ids(self) -> np.ndarray:
        # Without the subclass, whose views cost ten times as much to make.
        return np.asarray(np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset, shape=(self.tokens,)))


@dataclass(frozen=True)
class Tokens:
    """The ids `start` to `stop` of pieces that are read as one; files are mapped on first use, in each process.

    Attributes:
        pieces: in order.
        start: first id.
        stop: the one after the last id.
        below: what every id must be smaller than; checked when they are read.
    """

    pieces: tuple[Piece, ...]
    start: int
    stop: int
    below: int

    @classmethod
    def of(cls, pieces: tuple[Piece, ...], below: int) -> Tokens:
        """All ids of the pieces."""
        return cls(pieces, 0, sum(piece.tokens for piece in pieces), below)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> Tokens:
        start, stop, step = part.indices(len(self))
        assert step == 1, part
        return Tokens(self.pieces, self.start + start, self.start + stop, self.below)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("pieces", "start", "stop", "below")}

    def read(self, start: int, count: int) -> np.ndarray:
        """The ids `start` to `start + count`: a view where they lie in one piece.

        Raises:
            ValueError: an id is not in the vocabulary.
        """
        assert start >= 0 and start + count <= len(self), (start, count, len(self))
        parts = list(self._parts(self.start + start, count))
        ids = parts[0] if len(parts) == 1 else np.concatenate(parts, dtype=np.int64, casting="unsafe")
        if len(ids) and not 0 <= ids.min() <= ids.max() < self.below:
            self.refuse(start, count)
        return ids

    def _parts(self, start: int, count: int) -> Iterator[np.ndarray]:
        number = bisect_right(self._ends, start)
        while True:
            begin = start - (self._ends[number] - self.pieces[number].tokens)
            part = self._mapped(number)[begin : begin + count]
            yield part
            start, count, number = start + len(part), count - len(part), number + 1
            if not count:
                return

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(piece.tokens for piece in self.pieces))

    @cached_property
    def _maps(self) -> dict[int, np.ndarray]:
        return {}

    def _mapped(self, number: int) -> np.ndarray:
        if number not in self._maps:
            self._maps[number] = self.pieces[number].ids()
        return self._maps[number]

    def refuse(self, start: int, count: int) -> None:
        """Raises ValueError that names the file and the id between these positions that is not in the vocabulary."""
        position = self.start + start
        for part in self._parts(position, count):
            wrong = part[(part < 0) | (part >= self.below)]
            if len(wrong):
                piece = self.pieces[bisect_right(self._ends, position)]
                raise ValueError(
                    f"{piece.path} holds the id {wrong[0]}, and the tokenizer has ids below {self.below}: give the "
                    "tokenizer that the file was made with, or the dtype that it was written in"
                )
            position += len(part)
