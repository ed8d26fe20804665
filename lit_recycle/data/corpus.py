"""Tokenise once into a flat file of ids per split, memory-mapped ever after.

    <cache_dir>/corpus-<key>/train.bin, val.bin    ids of all documents, each followed by the end-of-document id
                             train.sums, val.sums  checksums of their blocks
                             meta.json             counts and checksums that tell whether the files are whole
    <cache_dir>/digests.json                       what `digests` knows of the files that were read

The key is a hash of what was read (contents, not names or dates), the tokenizer and the split, so another corpus gets
another folder. A folder appears whole, by one rename; of two processes that make it at once the slower discards its.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from lit_recycle.checksums import file_checksum
from lit_recycle.data.blocks import damaged, write_sums
from lit_recycle.data.digests import content_digests
from lit_recycle.data.sources import PIECE, Oddities, SourceFile, find_files, other_files, read_documents
from lit_recycle.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)

FORMAT = 2  # part of the key: raise it when the same input would give other files
BATCH = 1 << 20  # characters given to the tokenizer at a time: what it needs for them, 40 bytes each, is used again
AHEAD = 4  # batches that are tokenised while the one before them is written: enough to keep all cores busy


@dataclass(frozen=True)
class Split:
    """One flat file of token ids.

    Attributes:
        path: the file, ids of type `dtype` one after the other.
        tokens: number of ids, the end-of-document ones included.
        documents: number of documents.
        bytes: length of the documents' text in UTF-8.
        sums: checksums of the file's blocks, where there are any.
    """

    path: Path
    dtype: str
    tokens: int
    documents: int
    bytes: int
    sums: Path | None = None

    def samples(self, seq_len: int) -> int:
        """How many samples of `seq_len` inputs there are; neighbours share one token, the last label of the first."""
        return max(0, (self.tokens - 1) // seq_len)

    @property
    def bytes_per_token(self) -> float:
        """Turns loss per token into loss per byte: bits per byte = loss / ln 2 / bytes_per_token."""
        return self.bytes / self.tokens


@dataclass(frozen=True)
class Corpus:
    """A tokenised corpus on disk."""

    key: str
    train: Split
    val: Split

    @classmethod
    def open(cls, folder: Path) -> "Corpus":
        """Read the counts of a cache folder and check that its files are whole.

        Raises:
            ValueError: the folder is missing or damaged.
        """
        try:
            meta = json.loads((folder / "meta.json").read_text())
            splits = {
                name: Split(
                    path=folder / f"{name}.bin",
                    dtype=meta["dtype"],
                    sums=folder / f"{name}.sums",
                    **meta["splits"][name],
                )
                for name in ("train", "val")
            }
            if meta["checksum"] != _meta_checksum(meta):
                raise ValueError(damaged(folder / "meta.json"))
            for name, checksum in meta["sums"].items():
                if file_checksum(folder / name) != checksum:
                    raise ValueError(damaged(folder / name))
            whole = all(
                split.path.stat().st_size == split.tokens * np.dtype(split.dtype).itemsize for split in splits.values()
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder} is not a whole tokenised corpus ({error!r}); remove it.") from error
        if not whole:
            raise ValueError(f"{folder} is not a whole tokenised corpus (a file has the wrong size); remove it.")
        return cls(key=meta["key"], **splits)


def prepare_corpus(
    path: str | list[str], tokenizer: Tokenizer, cache_dir: str | Path, text_field: str, val_fraction: float
) -> Path:
    """Make sure that the tokenised corpus lies in the cache; safe to call from several processes at once.

    Args:
        path: see `lit_recycle.data.sources.find_files`.
        tokenizer: makes the ids.
        cache_dir: where corpora are kept; made if needed.
        text_field: key or column of the text in JSON lines and Parquet.
        val_fraction: share of the documents, chosen by a hash of their content, that are kept for validation.

    Returns:
        The folder to give to `Corpus.open`.

    Raises:
        ValueError: there is no text, or some of it cannot be read.
    """
    files = find_files(path)
    cache_dir = Path(cache_dir)
    key = corpus_key(files, tokenizer, cache_dir, text_field, val_fraction)
    folder = cache_dir / f"corpus-{key}"
    if folder.exists():
        if _is_whole(folder):
            return folder
        log.warning("%s is damaged and is made anew.", folder)
    other_files(path)
    with _room_beside(folder) as beside:
        made = beside / "corpus"
        made.mkdir()
        meta = {"key": key, **_tokenise(files, tokenizer, text_field, val_fraction, made)}
        if not meta["splits"]["train"]["tokens"]:
            raise ValueError(f"path={path!r} holds no text to train on; every document is empty or was left out.")
        (made / "meta.json").write_text(json.dumps({**meta, "checksum": _meta_checksum(meta)}, indent=2))
        _publish(made, folder)
    return folder


@contextmanager
def _room_beside(folder: Path) -> Iterator[Path]:
    """A folder to work in, beside the one that is to be made. What killed processes have left of theirs is removed.

    Raises:
        OSError: with the place, where it cannot be written to.
    """
    cache_dir = folder.parent
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        for left in cache_dir.glob(".corpus-*"):
            if _is_abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
        with (
            tempfile.TemporaryDirectory(dir=cache_dir, prefix=f".{folder.name}-") as name,
            open(Path(name, _LOCK), "w") as lock,
        ):
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield Path(name)
    except OSError as error:
        raise OSError(error.errno, error.strerror, error.filename or str(cache_dir)) from error


_LOCK = "lock"  # held for as long as its process lives


def _is_abandoned(left: Path) -> bool:
    try:
        with open(left / _LOCK, "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError:  # its process is about to make the lock, or was killed right before
        return left.is_dir() and time.time() - left.stat().st_mtime > 60


def _meta_checksum(meta: dict[str, Any]) -> str:
    """Of everything that meta.json says, but for this."""
    said = {name: value for name, value in meta.items() if name != "checksum"}
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def corpus_key(
    files: list[SourceFile], tokenizer: Tokenizer, cache_dir: Path, text_field: str, val_fraction: float
) -> str:
    """Hash of everything that decides the ids and their split: the files' contents and order, and how they are read.

    What is known of the contents is kept in `cache_dir`: only files that have changed are read.

    Raises:
        ValueError: a file cannot be read.
    """
    how = [FORMAT, PIECE, tokenizer.fingerprint, text_field, val_fraction]
    key = hashlib.blake2b(json.dumps(how).encode(), digest_size=16)
    for file, digest in zip(files, content_digests([file.path for file in files], cache_dir), strict=True):
        key.update(file.kind.encode() + digest)
    return key.hexdigest()


def _is_whole(folder: Path) -> bool:
    try:
        Corpus.open(folder)
    except ValueError:
        return False
    return True


def _publish(made: Path, folder: Path) -> None:
    """Give the finished folder its name, unless another process has been faster."""
    if folder.exists() and not _is_whole(folder):
        os.rename(folder, made.with_name("damaged"))
    try:
        os.rename(made, folder)
    except OSError:
        if not _is_whole(folder):
            raise


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


def _tokenise(
    files: list[SourceFile], tokenizer: Tokenizer, text_field: str, val_fraction: float, folder: Path
) -> dict[str, Any]:
    """Write train.bin and val.bin into `folder`; returns what meta.json holds besides the key."""
    dtype = "uint16" if tokenizer.vocab_size <= 2**16 else "uint32"
    oddities = Oddities()
    documents = (document for file in files for document in read_documents(file, text_field, oddities))
    with ExitStack() as stack:
        train, val = (
            stack.enter_context(_Writer(folder / f"{name}.bin", dtype, tokenizer.eos_id)) for name in ("train", "val")
        )
        bar = stack.enter_context(_progress_bar())
        total = sum(file.path.stat().st_size for file in files)
        task = bar.add_task("Tokenising", total=total)
        for texts, size, encoded in _encoded(_in_batches(documents), tokenizer):
            for text, ids in zip(texts, encoded, strict=True):
                data = text.encode()
                (val if _is_validation(data, val_fraction) else train).add(ids, len(data))
            bar.advance(task, size)
        bar.update(task, completed=total)
    for line in oddities.lines():
        log.warning(line)
    splits = {"train": dict(train.counts), "val": dict(val.counts)}
    if not val.counts["documents"]:
        _cut_off_tail(folder, splits, dtype, tokenizer, val_fraction)
    for name in splits:
        write_sums(folder / f"{name}.bin", folder / f"{name}.sums")
    return {
        "dtype": dtype,
        "tokenizer": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "splits": splits,
        "sums": {f"{name}.sums": file_checksum(folder / f"{name}.sums") for name in splits},
        "oddities": dict(oddities),
    }


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
    size = len(tokenizer.decode(tail).encode())
    val.update(tokens=len(tail), documents=1, bytes=size)
    train.update(tokens=keep, bytes=train["bytes"] - size)


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


def _progress_bar() -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )
