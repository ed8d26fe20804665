"""How the stream of whole samples is cut into shorter rows: where each row of a run lies.

Whole samples, one after the other in the order of the stream, are one long sequence of tokens. A row is the next
stretch of it, so nothing is lost and nothing is repeated, whatever its length. A row of a length that divides that of
a sample lies within one; another row may go over from a sample into the next.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import gcd
from typing import NamedTuple


class Piece(NamedTuple):
    """A stretch of one whole sample.

    Attributes:
        position: of the sample in the stream.
        offset: tokens of it before the stretch.
        tokens: in the stretch.
    """

    position: int
    offset: int
    tokens: int


@dataclass(frozen=True)
class Cut:
    """Rows of one length, from some row of the run on.

    Attributes:
        seq_len: tokens of a whole sample.
        length: tokens of a row.
        row: first row, counted over the whole run.
        token: where it begins in the stream, in tokens.
    """

    seq_len: int
    length: int
    row: int = 0
    token: int = 0

    def place(self, row: int) -> int:
        """Where a row begins in the stream, in tokens."""
        return self.token + (row - self.row) * self.length

    def position(self, row: int) -> int:
        """Where the first whole sample begins, in samples, that no row before this one has touched."""
        return -(-self.place(row) // self.seq_len)

    def changed(self, length: int, row: int) -> Cut:
        """Rows of another length from some row on.

        Rows that divide a sample begin with one: what then remains of the sample at hand, less than a row, is left out.
        """
        grid = gcd(length, self.seq_len)
        return Cut(self.seq_len, length, row, -(-self.place(row) // grid) * grid)

    def pieces(self, row: int) -> Iterator[Piece]:
        """What a row consists of."""
        token, end = self.place(row), self.place(row + 1)
        while token < end:
            position, offset = divmod(token, self.seq_len)
            tokens = min(end - token, self.seq_len - offset)
            yield Piece(position, offset, tokens)
            token += tokens
