"""Text that every machine has, without near-duplicates: the Python standard library, one document per file.

A document is held out by a hash of its content (`lit_recycle.data.corpus`), so exact duplicates stay together. Files
that differ in a few lines would not: they are left out before the split.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from lit_recycle.data.corpus import Corpus, Split, prepare_corpus
from lit_recycle.data.sources import PYTHON_STDLIB, find_files
from lit_recycle.data.tokenizer import Tokenizer

WINDOW = 3
"""Lines that follow each other, seen as one; single lines such as ``import sys`` are in any two files."""
MOST_IN_COMMON = 0.3
"""Share of its windows that a document may have in common with those before it."""


@dataclass(frozen=True)
class CorpusReport:
    """What was read, what was left out, and what held-out and training documents still have in common."""

    digest: str
    documents: int
    bytes: int
    near_duplicates: int
    near_duplicate_bytes: int
    held_out_documents: int
    held_out_bytes: int
    mean_overlap: float
    """Mean over held-out documents of the share of their windows that training documents have too."""
    max_overlap: float


def windows(text: str) -> set[int]:
    """Hashes of every ``WINDOW`` lines that follow each other, indentation and lines of up to three signs left out."""
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if len(line) > 3]
    return {hash(tuple(lines[i : i + WINDOW])) for i in range(len(lines) - WINDOW + 1)}


def without_near_duplicates(documents: Iterable[str]) -> tuple[list[str], list[str]]:
    """Documents kept and left out; one that shares too many windows with those kept before it is left out.

    They are gone through in the order of a hash, so that no folder comes first.
    """
    seen: set[int] = set()
    kept, left_out = [], []
    for text in sorted(set(documents), key=_hash):
        own = windows(text)
        if own and len(own & seen) / len(own) > MOST_IN_COMMON:
            left_out.append(text)
        else:
            kept.append(text)
            seen |= own
    return kept, left_out


def prepare(folder: Path, tokenizer: Tokenizer, val_fraction: float, path: str = PYTHON_STDLIB) -> CorpusReport:
    """Write the corpus as JSON lines and tokenise it, once; later runs find both. Returns what is known of it."""
    about = folder / "about.json"
    if not about.exists():
        kept, left_out = without_near_duplicates(_read(path))
        folder.mkdir(parents=True, exist_ok=True)
        text = "".join(json.dumps({"text": text}) + "\n" for text in kept)
        documents_file(folder).write_text(text, encoding="utf-8")
        corpus = open_corpus(folder, tokenizer, val_fraction)
        about.write_text(json.dumps(asdict(report(kept, left_out, corpus, tokenizer)), indent=1), encoding="utf-8")
    return CorpusReport(**json.loads(about.read_text(encoding="utf-8")))


def documents_file(folder: Path) -> Path:
    return folder / "documents.jsonl"


def open_corpus(folder: Path, tokenizer: Tokenizer, val_fraction: float) -> Corpus:
    """The tokenised corpus that the runs train on and are measured on."""
    return Corpus.open(prepare_corpus(str(documents_file(folder)), tokenizer, folder / "cache", "text", val_fraction))


def documents_of(split: Split, eos_id: int) -> list[np.ndarray]:
    """The ids of each document, without the one that ends it."""
    ids = np.fromfile(split.path, dtype=split.dtype)
    ends = np.flatnonzero(ids == eos_id)
    return [ids[begin:end] for begin, end in zip([0, *(ends[:-1] + 1)], ends, strict=True)]


def report(kept: list[str], left_out: list[str], corpus: Corpus, tokenizer: Tokenizer) -> CorpusReport:
    """Counts, and what the two splits have in common."""
    train, val = (
        [windows(tokenizer.decode(ids)) for ids in documents_of(split, tokenizer.eos_id)]
        for split in (corpus.train, corpus.val)
    )
    trained_on = set().union(*train)
    overlaps = [len(own & trained_on) / len(own) for own in val if own]
    return CorpusReport(
        digest=hashlib.blake2b("".join(map(_hash, kept)).encode(), digest_size=8).hexdigest(),
        documents=len(kept),
        bytes=_size(kept),
        near_duplicates=len(left_out),
        near_duplicate_bytes=_size(left_out),
        held_out_documents=corpus.val.documents,
        held_out_bytes=corpus.val.bytes,
        mean_overlap=sum(overlaps) / max(len(overlaps), 1),
        max_overlap=max(overlaps, default=0.0),
    )


def _read(path: str) -> Iterable[str]:
    for file in find_files(path):
        try:
            text = file.path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            continue  # test files of the library that are broken on purpose
        if text:
            yield text


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _size(texts: list[str]) -> int:
    return sum(len(text.encode()) for text in texts)
