"""Tokenised data of others, looked at before it is trained on: ids, types and ends of documents."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np

from lit_recycle.data.formats.files import TokenFiles
from lit_recycle.data.tokenizer import Tokenizer
from lit_recycle.data.tokens import Tokens

log = logging.getLogger(__name__)

BLOCKS, BLOCK = 64, 1024
"""So many stretches of so many ids are looked at, from everywhere in the data."""
DOCUMENTS = 1000
"""So many documents, from everywhere, are looked at for how they end."""
AT_ONCE = 1 << 14
SPEAKS_OF_NO_TYPE = ("nanoGPT", "OLMo")


def default_dtype(tokenizer: Tokenizer) -> str:
    """What files that do not say their type are taken to hold."""
    return "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"


def check_ids(files: TokenFiles, tokens: Tokens) -> None:
    """Look at stretches from everywhere; all ids are checked again when they are read.

    Raises:
        ValueError: an id is not in the vocabulary, or ids seem to be wider than the type in which they are read.
    """
    seen = _look(tokens)
    piece = files.pieces[0]
    if files.format not in SPEAKS_OF_NO_TYPE or np.dtype(piece.dtype).itemsize != 2:
        return
    if any(ids.any() for _, ids in seen) and not any(ids[1 - start % 2 :: 2].any() for start, ids in seen):
        raise ValueError(f"{piece.path}: every second {piece.dtype} is 0, as in wider ids: give dtype uint32")


def check_ends(files: TokenFiles, tokens: Tokens, eos_id: int) -> None:
    """Raises ValueError where no document seems to end, in a format that knows of no documents."""
    if not any((ids == eos_id).any() for _, ids in _look(tokens)):
        raise ValueError(
            f"{files.pieces[0].path}: the end-of-document id {eos_id} is nowhere to be seen, and documents are to be "
            "kept apart: give the tokenizer that the file was made with, or data.documents pack"
        )


def _look(tokens: Tokens) -> list[tuple[int, np.ndarray]]:
    """Stretches from everywhere, and where they start."""
    starts = np.unique(np.linspace(0, max(len(tokens) - BLOCK, 0), BLOCKS).astype(np.int64)).tolist()
    return [(start, tokens.read(start, min(BLOCK, len(tokens)))) for start in starts]


def documents_end(files: TokenFiles, tokens: Tokens, eos_id: int) -> bool:
    """Whether documents, where the format knows them, end with the end-of-document id."""
    if not files.document_count:
        return True
    some = np.unique(np.linspace(0, files.document_count - 1, DOCUMENTS).astype(np.int64))
    ends = files.document_ends(some)
    return all(tokens.read(end - 1, 1)[0] == eos_id for end in ends.tolist() if end)


def documents_of(files: TokenFiles, tokens: Tokens) -> Iterator[np.ndarray]:
    """The ids of every document."""
    begin = 0
    for first in range(0, files.document_count, AT_ONCE):
        numbers = np.arange(first, min(first + AT_ONCE, files.document_count))
        for end in files.document_ends(numbers).tolist():
            yield tokens.read(begin, end - begin)
            begin = end
