"""Records with several fields as one document, and the fields on which there is a loss."""

from __future__ import annotations

import json
import logging
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from lit_recycle.data.corpus import corpus_key, prepare_ids
from lit_recycle.data.oddities import Oddities
from lit_recycle.data.sources import SourceFile, find_files, other_files, read_records
from lit_recycle.data.splits import tell_of_splits
from lit_recycle.data.tokenizer import Tokenizer

log = logging.getLogger(__name__)

AT_ONCE = 256
"""Records that are given to the tokenizer together."""


@dataclass(frozen=True)
class Template:
    """How fields are joined.

    Attributes:
        parts: text, and the field after it; None at the end.
        loss_on: fields whose tokens are predicted; all tokens where it is empty.
    """

    parts: tuple[tuple[str, str | None], ...]
    loss_on: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str, loss_on: Sequence[str] = ()) -> Template:
        """A template as in `str.format`: "{document}\\n{thinking}"; braces that are meant are written twice.

        Raises:
            ValueError: it names no field, cannot be read, or `loss_on` has a field that is not in it.
        """
        parts: list[tuple[str, str | None]] = []
        before = ""  # a brace that is meant is a literal of its own
        try:
            for literal, field, form, conversion in string.Formatter().parse(text):
                before += literal
                if form or conversion:
                    raise ValueError(f"in its braces {field!r} is followed by more than a name")
                if field is not None:
                    parts.append((before, field))
                    before = ""
        except ValueError as error:
            raise ValueError(f"template {text!r} cannot be read ({error})") from error
        fields = [str(field) for _, field in parts]
        if not fields or not all(fields):
            raise ValueError(f"template {text!r} must name fields of the records in braces, as in '{{document}}'")
        if unknown := sorted(set(loss_on) - set(fields)):
            raise ValueError(f"loss_on has {unknown[0]!r}, and the fields of the template are {', '.join(fields)}")
        return cls((*parts, (before, None)), frozenset(loss_on))

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(field for _, field in self.parts if field is not None))

    @property
    def key(self) -> str:
        """What tells it from another one."""
        return json.dumps(["template", self.parts, sorted(self.loss_on)])

    def segments(self, texts: Sequence[str]) -> list[tuple[str, bool]]:
        """The pieces of a document, and whether each is predicted; `texts` are in the order of `fields`."""
        values, found = dict(zip(self.fields, texts, strict=True)), []
        for literal, field in self.parts:
            found.append((literal, not self.loss_on))
            if field is not None:
                found.append((values[field], not self.loss_on or field in self.loss_on))
        return [(text, kept) for text, kept in found if text]


def prepare_records(
    path: str | list[str], template: Template, tokenizer: Tokenizer, cache_dir: str | Path, val_fraction: float
) -> Path:
    """As `prepare_corpus`, of records that a template joins.

    Fields and the text between them are tokenised one by one, so that a token is of one of them alone. The end of a
    document is always predicted.

    Raises:
        ValueError: there are no records, or they cannot be read.
    """
    files, cache_dir = find_files(path), Path(cache_dir)
    if plain := [file.path for file in files if file.kind == "text"]:
        raise ValueError(f"{plain[0]} has no fields for a template: give .jsonl, .json, .parquet or a dataset.")
    tell_of_splits(path, [file.path for file in files])
    other_files(path)
    size = sum(file.path.stat().st_size for file in files)
    documents = _documents(files, template, tokenizer)
    with corpus_key(files, tokenizer, cache_dir, template.key, val_fraction) as key:
        return prepare_ids(documents, size, key, tokenizer, cache_dir, val_fraction, leaves_out=bool(template.loss_on))


def _documents(files: Sequence[SourceFile], template: Template, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Ids of every document; ~id where it is not predicted. Says what is left out."""
    oddities = Oddities()
    records = (record for file in files for record in read_records(file, template.fields, oddities))
    while some := list(islice(records, AT_ONCE)):
        documents = [template.segments(record) for record in some]
        encoded = iter(tokenizer.encode_batch([text for document in documents for text, _ in document]))
        for document in documents:
            parts = [next(encoded).astype(np.int64) for _ in document]
            yield np.concatenate([ids if kept else ~ids for ids, (_, kept) in zip(parts, document, strict=True)])
    for line in oddities.lines():
        log.warning(line)
