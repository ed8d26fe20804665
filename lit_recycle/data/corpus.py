"""Tokenise once into a flat file of ids per split, memory-mapped ever after.

    <cache_dir>/corpus-<key>/train.bin, val.bin    ids of all documents, each followed by the end-of-document id
                             train.sums, val.sums  checksums of their blocks
                             meta.json             counts and checksums that tell whether the files are whole
    <cache_dir>/digests.json                       what `digests` knows of the files that were read

The key is a hash of what was read (contents, not names or dates), the tokenizer and the split, so another corpus gets
another folder. A folder appears whole, by one rename; of two processes that make it at once the slower discards its.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lit_recycle.checksums import file_checksum
from lit_recycle.data.blocks import damaged, write_sums
from lit_recycle.data.digests import content_digests, known_digests
from lit_recycle.data.sources import PIECE, SourceFile, find_files, other_files, rows_of_ids
from lit_recycle.data.splits import tell_of_splits
from lit_recycle.data.token_files import LEAVES_OUT, SPLITS, copy_ids, tokenise
from lit_recycle.data.tokenizer import Tokenizer
from lit_recycle.data.tokens import Piece, Tokens
from lit_recycle.data.workspace import room_beside

log = logging.getLogger(__name__)

FORMAT = 2  # part of the key: raise it when the same input would give other files


@dataclass(frozen=True)
class Split:
    """One flat file of token ids.

    Attributes:
        path: the file, ids of type `dtype` one after the other.
        tokens: number of ids, the end-of-document ones included.
        documents: number of documents.
        bytes: length of the documents' text in UTF-8; 0 where ids were copied and not counted.
        sums: checksums of the file's blocks.
    """

    path: Path
    dtype: str
    tokens: int
    documents: int
    bytes: int
    sums: Path

    def ids(self, below: int) -> Tokens:
        """The ids, all of which are smaller than `below`."""
        piece = Piece(self.path, self.dtype, self.tokens, sums=self.sums)
        return Tokens.of((piece,), below, leaves_out=self.dtype == LEAVES_OUT)

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
            meta = _read_meta(folder)
            for name, checksum in meta["sums"].items():
                if file_checksum(folder / name) != checksum:
                    raise ValueError(damaged(folder / name))
            splits = {
                name: Split(
                    path=folder / f"{name}.bin",
                    dtype=meta["dtype"],
                    sums=folder / f"{name}.sums",
                    **meta["splits"][name],
                )
                for name in SPLITS
            }
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
    tell_of_splits(path, [file.path for file in files if not file.is_code])
    other_files(path)
    cache_dir = Path(cache_dir)

    def make(made: Path) -> dict[str, Any]:
        if rows := rows_of_ids(files, text_field):
            return copy_ids(rows, sum(file.path.stat().st_size for file in files), tokenizer, val_fraction, made)
        meta = tokenise(files, tokenizer, text_field, val_fraction, made)
        if not meta["splits"]["train"]["tokens"]:
            raise ValueError(
                f"path={path!r} holds no text to train on; every document is empty, was left out, or is kept for "
                "validation (data.val_fraction)."
            )
        return meta

    with corpus_key(files, tokenizer, cache_dir, text_field, val_fraction) as key:
        return _cached(cache_dir, key, make)


def prepare_ids(
    documents: Iterable[np.ndarray],
    size: int,
    key: str,
    tokenizer: Tokenizer,
    cache_dir: str | Path,
    val_fraction: float,
    leaves_out: bool = False,
) -> Path:
    """As `prepare_corpus`, of documents that are tokenised and cannot be read where they are.

    Args:
        documents: the ids of each.
        size: what the documents' sizes in bytes sum up to, for the progress bar; roughly.
        key: hash of what they are.
        tokenizer: the one that they were made with. Its end-of-document id is added where it is missing.
        cache_dir: where corpora are kept.
        val_fraction: share of the documents that are kept for validation.
        leaves_out: whether ids that are not to be predicted are among them, each as ~id.

    Raises:
        ValueError: there are no documents, or an id is not in the vocabulary.
    """

    def make(made: Path) -> dict[str, Any]:
        return copy_ids(documents, size, tokenizer, val_fraction, made, leaves_out)

    return _cached(Path(cache_dir), key, make)


def _cached(cache_dir: Path, key: str, make: Callable[[Path], dict[str, Any]]) -> Path:
    """The folder of a corpus; `make` fills it where it is not there, and gives what meta.json holds besides the key."""
    folder = cache_dir / f"corpus-{key}"
    if folder.exists():
        if _is_whole(folder):
            return folder
        log.warning("%s is damaged and is made anew.", folder)
    with room_beside(folder) as beside:
        made = beside / "corpus"
        made.mkdir()
        _seal(made, {"key": key, **make(made)})
        _publish(made, folder)
    return folder


def _seal(made: Path, meta: dict[str, Any]) -> None:
    """Write the checksums of the splits, and meta.json with those of the checksums and its own."""
    for name in SPLITS:
        write_sums(made / f"{name}.bin", made / f"{name}.sums")
    meta = {**meta, "sums": {f"{name}.sums": file_checksum(made / f"{name}.sums") for name in SPLITS}}
    (made / "meta.json").write_text(json.dumps({**meta, "checksum": _checksum(meta)}, indent=2))


def _read_meta(folder: Path) -> dict[str, Any]:
    """What `_seal` was given, and more; raises ValueError, KeyError or TypeError where it is not what was written."""
    meta: dict[str, Any] = json.loads((folder / "meta.json").read_text())
    if meta["checksum"] != _checksum(meta):
        raise ValueError(damaged(folder / "meta.json"))
    return meta


def _checksum(meta: dict[str, Any]) -> str:
    """Of everything that meta.json says, but for this."""
    said = {name: value for name, value in meta.items() if name != "checksum"}
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


@contextmanager
def corpus_key(
    files: list[SourceFile], tokenizer: Tokenizer, cache_dir: Path, text_field: str, val_fraction: float
) -> Iterator[str]:
    """Hash of everything that decides the ids and their split: the files' contents and order, and how they are read.

    What is known of the contents is kept in `cache_dir` if the corpus comes about: only files that have changed are
    read.

    Raises:
        ValueError: a file cannot be read.
    """
    with content_digests([file.path for file in files], cache_dir) as digests:
        yield _key(files, digests, tokenizer, text_field, val_fraction)


def _key(
    files: list[SourceFile], digests: list[bytes], tokenizer: Tokenizer, text_field: str, val_fraction: float
) -> str:
    how = [FORMAT, PIECE, tokenizer.fingerprint, text_field, val_fraction]
    key = hashlib.blake2b(json.dumps(how).encode(), digest_size=16)
    for file, digest in zip(files, digests, strict=True):
        key.update(file.kind.encode() + digest)
    return key.hexdigest()


def known_corpus(
    path: str | list[str], tokenizer: Tokenizer, cache_dir: str | Path, text_field: str, val_fraction: float
) -> Corpus | None:
    """The corpus that `prepare_corpus` has made of the files as they are; None where files would have to be read."""
    files, cache_dir = find_files(path), Path(cache_dir)
    digests = known_digests([file.path for file in files], cache_dir)
    if digests is None:
        return None
    folder = cache_dir / f"corpus-{_key(files, digests, tokenizer, text_field, val_fraction)}"
    return Corpus.open(folder) if _is_whole(folder) else None


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
