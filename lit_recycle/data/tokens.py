"""Token ids on disk as one long sequence, memory-mapped, however many files they lie in."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from lit_recycle.data.blocks import VerifiedBlocks
from lit_recycle.data.remote_blocks import SparseCopy


@dataclass(frozen=True)
class Piece:
    """Ids of type `dtype` one after the other, from byte `offset` of a file on.

    Attributes:
        sums: checksums of the file's blocks, where there are any; see `lit_recycle.data.blocks`.
    """

    path: Path
    dtype: str
    tokens: int
    offset: int = 0
    sums: Path | None = None


@dataclass(frozen=True)
class Tokens:
    """The ids `start` to `stop` of pieces that are read as one; files are mapped on first use, in each process.

    Attributes:
        pieces: in order.
        start: first id.
        stop: the one after the last id.
        below: what every id must be smaller than; checked when they are read.
        leaves_out: whether ids that are not to be predicted are among them, each as ~id.
    """

    pieces: tuple[Piece, ...]
    start: int
    stop: int
    below: int
    leaves_out: bool = False

    @classmethod
    def of(cls, pieces: tuple[Piece, ...], below: int, leaves_out: bool = False) -> Tokens:
        """All ids of the pieces."""
        return cls(pieces, 0, sum(piece.tokens for piece in pieces), below, leaves_out)

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> Tokens:
        start, stop, step = part.indices(len(self))
        assert step == 1, part
        return Tokens(self.pieces, self.start + start, self.start + stop, self.below, self.leaves_out)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("pieces", "start", "stop", "below", "leaves_out")}

    def read(self, start: int, count: int) -> np.ndarray:
        """The ids `start` to `start + count`: a view where they lie in one piece.

        Raises:
            ValueError: a file with checksums is damaged where the ids lie, or an id is not in the vocabulary.
        """
        assert start >= 0 and start + count <= len(self), (start, count, len(self))
        parts = [part for _, part in self._parts(self.start + start, count)]
        if len(parts) == 1:
            ids = parts[0]
        else:
            ids = np.concatenate([np.empty(0, np.int64), *parts], dtype=np.int64, casting="unsafe")
        if len(ids) and not self._least <= ids.min() <= ids.max() < self.below:
            self._refuse(start, count)
        return ids

    @property
    def _least(self) -> int:
        return ~(self.below - 1) if self.leaves_out else 0

    def _parts(self, start: int, count: int) -> Iterator[tuple[Piece, np.ndarray]]:
        number = bisect_right(self._ends, start)
        while count:
            piece = self.pieces[number]
            begin = start - (self._ends[number] - piece.tokens)
            part = self._mapped(piece)[begin : begin + count]
            if len(part) and (blocks := self._blocks_of(piece)):
                first = piece.offset + begin * part.itemsize
                blocks.verify(first, first + part.nbytes)
            yield piece, part
            start, count, number = start + len(part), count - len(part), number + 1

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(piece.tokens for piece in self.pieces))

    @cached_property
    def _maps(self) -> dict[Path, np.ndarray]:
        return {}

    def _mapped(self, piece: Piece) -> np.ndarray:
        """A piece's ids, a view of the file; a process may have some 65,000 maps, so there is one for each file."""
        if piece.path not in self._maps:
            # Without the subclass memmap, whose views cost ten times as much to make.
            self._maps[piece.path] = np.asarray(np.memmap(piece.path, dtype=np.uint8, mode="r"))
        size = piece.tokens * np.dtype(piece.dtype).itemsize
        return self._maps[piece.path][piece.offset : piece.offset + size].view(piece.dtype)

    @cached_property
    def _blocks(self) -> dict[Path, VerifiedBlocks | SparseCopy | None]:
        return {}

    def _blocks_of(self, piece: Piece) -> VerifiedBlocks | SparseCopy | None:
        """What verifies, and fetches, blocks of a piece's file; None for a file that is as it is."""
        if piece.path not in self._blocks:
            self._blocks[piece.path] = (
                VerifiedBlocks(piece.path, piece.sums) if piece.sums is not None else SparseCopy.of(piece.path)
            )
        return self._blocks[piece.path]

    def _refuse(self, start: int, count: int) -> None:
        for piece, part in self._parts(self.start + start, count):
            wrong = part[(part < self._least) | (part >= self.below)]
            if len(wrong):
                raise ValueError(
                    f"{piece.path} holds the id {wrong[0]}, and the tokenizer has ids below {self.below}: give the "
                    "tokenizer that the file was made with, or as dtype the type in which it was written"
                )
