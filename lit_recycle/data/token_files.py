"""Flat files of token ids, one for training and one for validation, written from text or from ids.

<folder>/train.bin, val.bin    ids of all documents, each followed by the end-of-document id
"""

import hashlib
import logging
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from lit_recycle.data.oddities import Oddities
from lit_recycle.data.sources import SourceFile, read_documents
from lit_recycle.data.tokenizer import Tokenizer
from lit_recycle.progress import progress_bar

log = logging.getLogger(__name__)

SPLITS = ("train", "val")
LEAVES_OUT = "int32"  # type of ids some of which are not to be predicted, and are written as ~id
BATCH = 1 << 20  # characters given to the tokenizer at a time: what it needs for them, 40 bytes each, is used again
AHEAD = 4  # batches that are tokenised while the one before them is written: enough to keep all cores busy


class _Writer:
    """Appends documents to the file of one split and counts them."""

    def __init__(self, path: Path, dtype: str, eos_id: int) -> None:
        self.counts = Counter(tokens=0, documents=0, bytes=0)
        self._dtype, self._eos = dtype, np.array([eos_id], dtype=dtype).tobytes()
        self._stream = open(path, "wb")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stream.close()

    def add(self, ids: np.ndarray, size: int) -> None:
        self._stream.write(ids.astype(self._dtype).tobytes() + self._eos)
        self.counts.update(tokens=len(ids) + 1, documents=1, bytes=size)


def tokenise(
    files: list[SourceFile], tokenizer: Tokenizer, text_field: str, val_fraction: float, folder: Path
) -> dict[str, Any]:
    """Write train.bin and val.bin into `folder`; returns what meta.json holds besides the key."""
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    oddities = Oddities()
    documents = (document for file in files for document in read_documents(file, text_field, oddities))
    with ExitStack() as stack:
        train, val = (stack.enter_context(_Writer(folder / f"{name}.bin", dtype, tokenizer.eos_id)) for name in SPLITS)
        advance = stack.enter_context(progress_bar(sum(file.path.stat().st_size for file in files), "Tokenising"))
        for texts, size, encoded in _encoded(_in_batches(documents), tokenizer):
            for text, ids in zip(texts, encoded, strict=True):
                data = text.encode()
                (val if _is_validation(data, val_fraction) else train).add(ids, len(data))
            advance(size)
    for line in oddities.lines():
        log.warning(line)
    splits = {"train": dict(train.counts), "val": dict(val.counts)}
    if not val.counts["documents"]:
        _cut_off_tail(folder, splits, dtype, tokenizer, val_fraction)
    return {
        "dtype": dtype,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "splits": splits,
        "oddities": dict(oddities),
    }


def copy_ids(
    documents: Iterable[np.ndarray],
    size: int,
    tokenizer: Tokenizer,
    val_fraction: float,
    folder: Path,
    leaves_out: bool = False,
) -> dict[str, Any]:
    """Write ids that are there already; the bytes of text that they stand for are counted for validation only."""
    dtype = LEAVES_OUT if leaves_out else "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    with ExitStack() as stack:
        train, val = (stack.enter_context(_Writer(folder / f"{name}.bin", dtype, tokenizer.eos_id)) for name in SPLITS)
        advance = stack.enter_context(progress_bar(size, "Copying"))
        for ids in documents:
            if len(ids) and ids[-1] == tokenizer.eos_id:
                ids = ids[:-1]
            if not len(ids):
                continue
            plain = np.where(ids < 0, ~ids, ids) if leaves_out else ids
            if not 0 <= plain.min() <= plain.max() < tokenizer.vocab_size:
                raise ValueError(
                    f"there is an id {max(ids.max(), -ids.min())} in the data, and the tokenizer has ids below "
                    f"{tokenizer.vocab_size}: give the tokenizer that the data was made with"
                )
            chosen = _is_validation(ids.astype(np.int64).tobytes(), val_fraction)
            counted = chosen and not leaves_out
            (val if chosen else train).add(ids, len(tokenizer.decode(ids).encode()) if counted else 0)
            advance(len(ids) * 2)
    if not train.counts["documents"]:
        raise ValueError("there are no ids to train on: every document is empty, or chosen for validation.")
    splits = {"train": dict(train.counts), "val": dict(val.counts)}
    if not val.counts["documents"]:
        _cut_off_tail(folder, splits, dtype, tokenizer, val_fraction)
    return {"dtype": dtype, "tokenizer": tokenizer.fingerprint, "vocab_size": tokenizer.vocab_size, "splits": splits}


def _is_validation(document: bytes, val_fraction: float) -> bool:
    """By content alone: a document stays where it is when others join, and its duplicates go with it."""
    return int.from_bytes(hashlib.blake2b(document, digest_size=8).digest()) < val_fraction * 2**64


def _cut_off_tail(
    folder: Path, splits: dict[str, dict[str, int]], dtype: str, tokenizer: Tokenizer, val_fraction: float
) -> None:
    """Where no document fell to validation, as with one book, the last tokens of all do."""
    train, val = splits["train"], splits["val"]
    keep = train["tokens"] - int(train["tokens"] * val_fraction)
    if keep == train["tokens"]:
        return
    itemsize = np.dtype(dtype).itemsize
    tail = np.fromfile(folder / "train.bin", dtype=dtype, offset=keep * itemsize)
    tail.tofile(folder / "val.bin")
    os.truncate(folder / "train.bin", keep * itemsize)
    size = 0 if dtype == LEAVES_OUT else len(tokenizer.decode(tail).encode())
    val.update(tokens=len(tail), documents=1, bytes=size)
    train.update(tokens=keep, bytes=max(train["bytes"] - size, 0))


def _in_batches(documents: Iterable[tuple[str, int]]) -> Iterator[tuple[list[str], int]]:
    """Group documents until they hold `BATCH` characters."""
    texts: list[str] = []
    length = total = 0
    for text, size in documents:
        texts.append(text)
        length, total = length + len(text), total + size
        if length >= BATCH:
            yield texts, total
            texts, length, total = [], 0, 0
    if texts:
        yield texts, total


def _encoded(
    batches: Iterable[tuple[list[str], int]], tokenizer: Tokenizer
) -> Iterator[tuple[list[str], int, list[np.ndarray]]]:
    """Add the ids to each batch, while the batches after it are being tokenised: a library that works on all cores
    leaves the interpreter free for what only Python can do, reading, making arrays, and writing.
    """
    ahead: deque[tuple[list[str], int, Future[list[np.ndarray]]]] = deque()
    with ThreadPoolExecutor(AHEAD) as pool:
        for texts, size in batches:
            ahead.append((texts, size, pool.submit(tokenizer.encode_batch, texts)))
            if len(ahead) > AHEAD:
                first, first_size, ids = ahead.popleft()
                yield first, first_size, ids.result()
        for texts, size, ids in ahead:
            yield texts, size, ids.result()
