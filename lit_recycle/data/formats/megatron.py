"""Megatron-LM's indexed datasets: `name.bin` holds the ids, `name.idx` where sequences and documents begin.

`.idx`: `MMIDIDX\\0\\0`, version 1 (u64), type of the ids (u8), number of sequences and of document borders (u64 each),
lengths of the sequences (i32), positions of their first bytes (i64), numbers of the sequences at which documents begin,
and the number of sequences (i64).
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

from lit_recycle.data.formats.files import Documents, TokenFiles, check_size
from lit_recycle.data.tokens import Piece

MAGIC = b"MMIDIDX\0\0"
HEADER = struct.Struct("<9sQBQQ")
DTYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}


def read(path: Path, dtype: str, column: str) -> TokenFiles | None:
    """One dataset, named by its `.bin`, its `.idx`, or what both begin with; None for what is not one.

    Raises:
        ValueError: it is damaged, or does not hold integers.
    """
    stem = path.with_suffix("") if path.suffix in (".bin", ".idx") else path
    index, ids = stem.with_name(stem.name + ".idx"), stem.with_name(stem.name + ".bin")
    if not index.is_file() or path.is_dir():
        return None
    if not ids.is_file():
        raise ValueError(f"{index} has no {ids.name} beside it")
    with open(index, "rb") as stream:
        head = stream.read(HEADER.size)
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise ValueError(f"{index} is not an index of Megatron-LM: it does not begin with {MAGIC!r}")
    _, version, code, sequences, borders = HEADER.unpack(head)
    if version != 1 or code not in DTYPES:
        raise ValueError(f"{index} has version {version} and type {code}; versions 1 with integers can be read")
    check_size(Piece(index, "uint8", 0), index.stat().st_size, HEADER.size + 12 * sequences + 8 * borders)
    table = np.memmap(index, np.uint8, mode="r", offset=HEADER.size)
    lengths, pointers, documents = _tables(table, sequences)
    itemsize = np.dtype(DTYPES[code]).itemsize
    size = int(pointers[-1]) + int(lengths[-1]) * itemsize if sequences else 0
    piece = Piece(ids, DTYPES[code], size // itemsize)
    check_size(piece, ids.stat().st_size, size)

    def ends(numbers: np.ndarray) -> np.ndarray:
        following = np.asarray(documents[numbers + 1])
        inside = following < sequences
        return np.where(inside, pointers[np.where(inside, following, 0)] // itemsize, piece.tokens)

    return TokenFiles("Megatron", (piece,), ((0, Documents(max(borders - 1, 0), ends)),))


def _tables(table: np.ndarray, sequences: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lengths, positions of first bytes, and borders of documents, as views."""
    lengths, pointers, borders = np.split(np.asarray(table), [4 * sequences, 12 * sequences])
    return lengths.view("<i4"), pointers.view("<i8"), borders.view("<i8")
