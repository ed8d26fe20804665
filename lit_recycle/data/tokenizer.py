"""Text to token ids and back: raw bytes, or any Hugging Face `tokenizer.json`."""

import hashlib
import json
from abc import ABC, abstractmethod
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

BYTES = "bytes"
# What model families call the token that ends a document, the most explicit name first.
EOS_NAMES = (
    "<|endoftext|>",
    "<|end_of_text|>",
    "<｜end▁of▁sentence｜>",
    "</s>",
    "<eos>",
    "<|eos|>",
    "[EOS]",
    "<|im_end|>",
    "[SEP]",
)


class Tokenizer(ABC):
    """Turns text into ids below `vocab_size`.

    Attributes:
        vocab_size: number of ids, one more than the largest.
        eos_id: the id written after every document; `encode` never adds it.
        fingerprint: hash of everything that decides the ids; equal fingerprints give equal ids.
    """

    vocab_size: int
    eos_id: int
    fingerprint: str

    @abstractmethod
    def encode(self, text: str) -> np.ndarray:
        """Ids of one text, int64 of shape [tokens], without any token before or after."""

    @abstractmethod
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, those of `encode`, unsigned and as narrow as is at hand; on all cores where one can."""

    @abstractmethod
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """The text of ids; special tokens and ids outside the vocabulary are left out."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Plain types from which `from_dict` makes an equal tokenizer, with no file needed."""

    @staticmethod
    def from_dict(state: dict[str, Any]) -> "Tokenizer":
        """The tokenizer that `to_dict` described."""
        if state["kind"] == BYTES:
            return ByteTokenizer()
        if state["kind"] == "tokenizer.json":
            return JsonTokenizer(state["json"])
        raise ValueError(f"Tokenizers are of kind 'bytes' or 'tokenizer.json', not {state['kind']!r}.")


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes as ids 0 to 255, and 256 as end of document."""

    vocab_size = 257
    eos_id = 256
    fingerprint = BYTES

    @override
    def encode(self, text: str) -> np.ndarray:
        # "replace" only meets lone surrogates, which a terminal can put into a prompt and UTF-8 cannot carry.
        return np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8).astype(np.int64)

    @override
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.frombuffer(text.encode("utf-8", "replace"), dtype=np.uint8) for text in texts]

    @override
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        ids = np.asarray(ids, dtype=np.int64)
        return ids[(ids >= 0) & (ids < 256)].astype(np.uint8).tobytes().decode("utf-8", "replace")

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"kind": BYTES}


class JsonTokenizer(Tokenizer):
    """A Hugging Face tokenizer, from the text of its `tokenizer.json`.

    Special tokens that are spelled out in a text become their ids, as everywhere in that library; none is added, and
    truncation or padding that the file asks for is switched off.

    Args:
        text: content of a `tokenizer.json`.
        name: what error messages call it.

    Raises:
        ValueError: the text is not a tokenizer, or none of its tokens ends a document (see `EOS_NAMES`).
    """

    def __init__(self, text: str, name: str = "the tokenizer of this checkpoint") -> None:
        self._text = text
        self._backend = _backend(text, name)
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        eos = next((token for token in EOS_NAMES if token in vocabulary), None)
        if eos is None:
            raise ValueError(
                f"{name} has no token that ends a document; add one of {', '.join(EOS_NAMES)} to its added_tokens."
            )
        self.eos_id = vocabulary[eos]
        self.vocab_size = max(vocabulary.values()) + 1  # ids may have holes
        # Hashed in canonical form, so that re-indenting the file does not make it another tokenizer.
        canonical = json.dumps(json.loads(text), sort_keys=True).encode()
        self.fingerprint = hashlib.blake2b(canonical, digest_size=16).hexdigest()

    @override
    def encode(self, text: str) -> np.ndarray:
        return np.array(self._backend.encode(text, add_special_tokens=False).ids, dtype=np.int64)

    @override
    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        encodings = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        # By way of an array, which takes a third of the time that numpy takes to look at each of a list's elements.
        return [np.frombuffer(array("I", encoding.ids), dtype=np.uint32) for encoding in encodings]

    @override
    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        return self._backend.decode(np.asarray(ids, dtype=np.int64).tolist(), skip_special_tokens=True)

    @override
    def to_dict(self) -> dict[str, Any]:
        return {"kind": "tokenizer.json", "json": self._text}


def _backend(text: str, name: str) -> Any:
    try:
        from tokenizers import Tokenizer as Backend
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"Reading {name} needs the library tokenizers; install it with `pip install tokenizers`."
        ) from error
    try:
        backend = Backend.from_str(text)
    except Exception as error:  # the library raises bare Exception for whatever is wrong with the text
        raise ValueError(f"{name} is not a Hugging Face tokenizer.json ({error}).") from error
    backend.no_truncation()
    backend.no_padding()
    return backend


def load_tokenizer(spec: str) -> Tokenizer:
    """The tokenizer that a user named.

    Args:
        spec: "bytes", or the path of a `tokenizer.json` or of a folder with one.

    Raises:
        ValueError: there is no such file, or it is not a tokenizer that can end a document.
        ModuleNotFoundError: the library `tokenizers` is not installed.
    """
    if spec == BYTES:
        return ByteTokenizer()
    path = Path(spec).expanduser()
    path = path / "tokenizer.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"tokenizer={spec!r}: {path} does not exist; give 'bytes' or the path of a tokenizer.json.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a Hugging Face tokenizer.json (it is not UTF-8 text).") from error
    return JsonTokenizer(text, name=str(path))
