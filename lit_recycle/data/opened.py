"""What a run trains on and is validated on: the sources that a user named, opened."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lit_recycle.data.config import Source
from lit_recycle.data.corpus import Corpus, known_corpus, prepare_corpus
from lit_recycle.data.tokenizer import Tokenizer
from lit_recycle.data.tokens import Tokens


@dataclass(frozen=True)
class OpenSource:
    """The tokens of a source.

    Attributes:
        name: what logs call it.
        key: hash of its content.
        train: what is trained on.
        val: what is kept for validation.
        val_bytes_per_token: mean length in bytes of text of a token in `val`.
    """

    name: str
    key: str
    train: Tokens
    val: Tokens
    val_bytes_per_token: float


@dataclass(frozen=True)
class Preparation:
    """How sources are read, besides what they say themselves; see `TextData` for the fields."""

    tokenizer: Tokenizer
    cache_dir: str
    text_field: str
    val_fraction: float

    def prepare(self, source: Source) -> Path:
        """Make sure that a source can be opened; returns the folder for `open`.

        Raises:
            ValueError: there is nothing to read, or it cannot be read.
        """
        field = source.text_field or self.text_field
        return prepare_corpus(source.path, self.tokenizer, self.cache_dir, field, self.val_fraction)

    def tokens(self, source: Source) -> int | None:
        """Tokens to train on; None where they are not known without reading whole files.

        Raises:
            ValueError: it cannot be read.
        """
        field = source.text_field or self.text_field
        corpus = known_corpus(source.path, self.tokenizer, self.cache_dir, field, self.val_fraction)
        return corpus.train.tokens if corpus else None

    def open(self, source: Source, folder: Path) -> OpenSource:
        """Open what `prepare` has made in this or another process.

        Raises:
            ValueError: it is damaged.
        """
        corpus, below = Corpus.open(folder), self.tokenizer.vocab_size
        per_token = corpus.val.bytes_per_token if corpus.val.tokens else 1.0
        return OpenSource(source.name, corpus.key, corpus.train.ids(below), corpus.val.ids(below), per_token)


def refuse_twins(sources: Sequence[OpenSource]) -> None:
    """Raises ValueError where two sources have the same content: a checkpoint could not tell them apart."""
    names: dict[str, str] = {}
    for source in sources:
        if (first := names.setdefault(source.key, source.name)) != source.name:
            raise ValueError(
                f"data.sources: {first!r} and {source.name!r} have the same content; give one of them both weights"
            )
