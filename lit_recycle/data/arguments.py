"""Arguments of `TextData`: which are out of range, and which a checkpoint keeps."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lit_recycle.data.config import CORPUS, Source
from lit_recycle.data.remote import is_remote
from lit_recycle.data.sources import PYTHON_STDLIB

if TYPE_CHECKING:
    from lit_recycle.data.module import TextData


def check_sizes(
    seq_len: int, batch_size: int, val_fraction: float, shuffle_window: int | None, num_workers: int
) -> None:
    """Raises ValueError for a size that is out of range."""
    least = {"seq_len": (seq_len, 1), "batch_size": (batch_size, 1), "num_workers": (num_workers, 0)}
    if shuffle_window is not None:
        least["shuffle_window"] = shuffle_window, 1
    for name, (value, bound) in least.items():
        if value < bound:
            raise ValueError(f"data.{name} must be at least {bound}, got {value}")
    if not 0 <= val_fraction < 1:
        raise ValueError(f"data.val_fraction must be at least 0 and below 1, got {val_fraction}")


def kept_arguments(data: TextData) -> dict[str, Any]:
    """What decides the validation data, so that a checkpoint can be evaluated on it without being told."""
    sources = [asdict(source) | {"path": _absolute(source.path)} for source in data.sources]
    path = sources[0]["path"]
    is_plain = len(sources) == 1 and sources[0] == asdict(Source(CORPUS, path))
    return {
        "path": path if is_plain else None,
        "sources": None if is_plain else sources,
        "val": {name: _absolute(path) for name, path in data.val.items()} or None,
        "tokenizer": data.tokenizer_spec,
        "text_field": data.text_field,
        "documents": data.documents,
        "seq_len": data.seq_len,
        "batch_size": data.batch_size,
        "val_fraction": data.val_fraction,
        "cache_dir": os.path.abspath(data.cache_dir),
    }


def _absolute(path: str | list[str]) -> str | list[str]:
    """A path that does not depend on the working directory."""
    if isinstance(path, list):
        return [str(_absolute(p)) for p in path]
    return path if path == PYTHON_STDLIB or is_remote(path) else os.path.abspath(os.path.expanduser(path))
