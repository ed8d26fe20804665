"""What a run trains on and is validated on: the sources that a user named, opened."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from lit_recycle.data.config import Source
from lit_recycle.data.corpus import Corpus, known_corpus, prepare_corpus, prepare_ids
from lit_recycle.data.formats.files import TokenFiles
from lit_recycle.data.formats.find import find_tokens
from lit_recycle.data.remote import fetch, is_fetched, local_path
from lit_recycle.data.splits import tell_of_splits
from lit_recycle.data.template import Template, prepare_records
from lit_recycle.data.tokenised import check_ends, check_ids, default_dtype, documents_end, documents_of
from lit_recycle.data.tokenizer import Tokenizer
from lit_recycle.data.tokens import Tokens

log = logging.getLogger(__name__)

DECODED = 1 << 17
"""So many ids are turned into text to see how long a token is."""


@dataclass(frozen=True)
class Part:
    """The training or the validation part of a source.

    Attributes:
        tokens: its ids.
        bytes_per_token: gives the mean length in bytes of text of a token.
    """

    tokens: Tokens
    bytes_per_token: Callable[[], float]


@dataclass(frozen=True)
class OpenSource:
    """The tokens of a source.

    Attributes:
        name: what logs call it.
        key: hash of its content.
        train: what is trained on.
        val: what is kept for validation.
    """

    name: str
    key: str
    train: Part
    val: Part


@dataclass(frozen=True)
class Preparation:
    """How sources are read, besides what they say themselves; see `TextData` for the fields.

    Attributes:
        apart: whether documents are to be kept apart, so that they must end somewhere.
    """

    tokenizer: Tokenizer
    cache_dir: str
    text_field: str
    val_fraction: float
    apart: bool = False

    def prepare(self, source: Source) -> Path | None:
        """Make sure that a source can be opened.

        Returns:
            The folder in the cache for `open`; None for what is read where it lies.

        Raises:
            ValueError: there is nothing to read, or it cannot be read.
        """
        fetch(source.path, self.cache_dir)
        source = self._local(source)
        if source.template:
            template = Template.parse(source.template, source.loss_on)
            return prepare_records(source.path, template, self.tokenizer, self.cache_dir, self.val_fraction)
        files = self._tokenised(source)
        if files is None:
            field = source.text_field or self.text_field
            return prepare_corpus(source.path, self.tokenizer, self.cache_dir, field, self.val_fraction)
        tell_of_splits(source.path, [Path(piece.path) for piece in files.pieces])
        if not files.tokens:
            raise ValueError(f"path={source.path!r} holds no ids.")
        tokens = Tokens.of(files.pieces, self.tokenizer.vocab_size)
        check_ids(files, tokens)
        if self.apart and not files.document_count:
            check_ends(files, tokens, self.tokenizer.eos_id)
        if documents_end(files, tokens, self.tokenizer.eos_id):
            return None
        log.warning(
            "The documents in %s do not end with the id %d: they are copied into the cache, and it is added.",
            source.path,
            self.tokenizer.eos_id,
        )
        return prepare_ids(
            documents_of(files, tokens),
            files.tokens,
            self._key(files),
            self.tokenizer,
            self.cache_dir,
            self.val_fraction,
        )

    def tokens(self, source: Source) -> int | None:
        """Tokens to train on; None where they are not known without reading whole files.

        Raises:
            ValueError: it cannot be read.
        """
        if not is_fetched(source.path, self.cache_dir):
            return None
        source = self._local(source)
        if source.template:
            template = Template.parse(source.template, source.loss_on)
            corpus = known_corpus(source.path, self.tokenizer, self.cache_dir, template.key, self.val_fraction)
            return corpus.train.tokens if corpus else None
        files = self._tokenised(source)
        if files is not None:
            return self._kept(files.tokens)
        field = source.text_field or self.text_field
        corpus = known_corpus(source.path, self.tokenizer, self.cache_dir, field, self.val_fraction)
        return corpus.train.tokens if corpus else None

    def open(self, source: Source, folder: Path | None) -> OpenSource:
        """Open what `prepare` has made, or found, in this or another process.

        Raises:
            ValueError: it is damaged.
        """
        below = self.tokenizer.vocab_size
        if folder is not None:
            corpus = Corpus.open(folder)
            train, val = (self._part(split.ids(below), split.bytes) for split in (corpus.train, corpus.val))
            return OpenSource(source.name, corpus.key, train, val)
        files = self._tokenised(self._local(source))
        assert files is not None, source
        tokens = Tokens.of(files.pieces, below)
        keep = self._kept(len(tokens))
        return OpenSource(source.name, self._key(files), self._part(tokens[:keep]), self._part(tokens[keep:]))

    def whole(self, name: str, path: str | list[str]) -> tuple[Source, Preparation]:
        """How something is opened that is for validation as a whole: all of it is in `train`."""
        return Source(name, path), replace(self, val_fraction=0.0)

    def _local(self, source: Source) -> Source:
        return replace(source, path=local_path(source.path, self.cache_dir))

    def _tokenised(self, source: Source) -> TokenFiles | None:
        field = source.text_field or self.text_field
        return find_tokens(source.path, source.dtype or default_dtype(self.tokenizer), field)

    def _kept(self, tokens: int) -> int:
        """Tokens of tokenised data that are trained on; the rest, at the end, is for validation."""
        return tokens - int(tokens * self.val_fraction)

    def _key(self, files: TokenFiles) -> str:
        how = f"{files.key()}:{self.val_fraction}:{self.tokenizer.fingerprint}"
        return hashlib.blake2b(how.encode(), digest_size=16).hexdigest()

    def _part(self, tokens: Tokens, size: int = 0) -> Part:
        """Of tokens that stand for so many bytes of text; 0 where that is not known."""
        return Part(tokens, (lambda: size / len(tokens)) if size else cache(lambda: self._bytes_per_token(tokens)))

    def _bytes_per_token(self, tokens: Tokens) -> float:
        ids = tokens.read(0, min(len(tokens), DECODED))
        ids = ids[ids >= 0]  # a loss is of what is predicted
        return max(len(self.tokenizer.decode(ids).encode()), 1) / max(len(ids), 1)


def refuse_twins(sources: Sequence[OpenSource]) -> None:
    """Raises ValueError where two sources have the same content: a checkpoint could not tell them apart."""
    names: dict[str, str] = {}
    for source in sources:
        if (first := names.setdefault(source.key, source.name)) != source.name:
            raise ValueError(
                f"data.sources: {first!r} and {source.name!r} have the same content; give one of them both weights"
            )
