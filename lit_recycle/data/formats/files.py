"""What a reader of tokenised data gives: stretches of ids in files, and where documents end."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np

from lit_recycle.data.remote_blocks import fetch_range
from lit_recycle.data.tokens import Piece

EDGE = 4096
"""Bytes at the beginning, middle and end of a file that tell it from another one of its size."""


@dataclass(frozen=True)
class Documents:
    """Where the documents in some pieces end.

    Attributes:
        count: number of documents.
        ends: gives for documents by number the position after the last id, counted from the first piece's first.
    """

    count: int
    ends: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TokenFiles:
    """Tokenised data on disk.

    Attributes:
        format: what users call it.
        pieces: the ids, in order.
        documents: one entry for each stretch of pieces whose documents are known, with the position at which it begins;
            empty where the format does not say.
    """

    format: str
    pieces: tuple[Piece, ...]
    documents: tuple[tuple[int, Documents], ...] = ()

    @property
    def tokens(self) -> int:
        return sum(piece.tokens for piece in self.pieces)

    @property
    def document_count(self) -> int:
        return sum(part.count for _, part in self.documents)

    @cached_property
    def _document_counts(self) -> list[int]:
        return list(accumulate(part.count for _, part in self.documents))

    def document_ends(self, documents: np.ndarray) -> np.ndarray:
        """Position after the last id of each document, by number."""
        ends = np.empty(len(documents), np.int64)
        part_of = np.searchsorted(self._document_counts, documents, side="right")
        for part in np.unique(part_of):
            (start, known), here = self.documents[part], part_of == part
            ends[here] = start + known.ends(documents[here] - (self._document_counts[part] - known.count))
        return ends

    def key(self) -> str:
        """Hash of types, sizes and edges of the files: another place gives the same, and no file is read whole."""
        key = hashlib.blake2b(self.format.encode(), digest_size=16)
        paths = dict.fromkeys(piece.path for piece in self.pieces)
        for piece in self.pieces:
            key.update(f"{piece.dtype}:{piece.offset}:{piece.tokens};".encode())
        for path in paths:
            size = path.stat().st_size
            with open(path, "rb") as stream:
                for at in (0, size // 2, max(size - EDGE, 0)):
                    fetch_range(path, at, min(at + EDGE, size))
                    stream.seek(at)
                    key.update(stream.read(EDGE))
        return key.hexdigest()


def joined(files: Sequence[TokenFiles]) -> TokenFiles:
    """Several as one, in order; documents are known where they are known of all."""
    starts = [0, *accumulate(part.tokens for part in files)]
    documents = tuple(
        (start + begin, known)
        for start, part in zip(starts, files, strict=False)
        for begin, known in part.documents
        if all(other.documents for other in files)
    )
    names = ", ".join(dict.fromkeys(part.format for part in files))
    return TokenFiles(names, tuple(piece for part in files for piece in part.pieces), documents)


def check_size(piece: Piece, size: int, meant: int) -> None:
    """Raises ValueError where a file does not have the size that it says it has."""
    if size != meant:
        state = "truncated" if size < meant else "longer than it says"
        raise ValueError(f"{piece.path} is {state}: it has {size:,} bytes, and should have {meant:,}; write it again")
