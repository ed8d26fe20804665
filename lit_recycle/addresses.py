"""Addresses of files on servers and in object stores (`s3://`, `gs://`, `memory://`, …), which fsspec understands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote

Place = Path | str
"""Where a checkpoint is: on disk, or at an address."""


def is_remote(path: object) -> bool:
    """Whether a path is an address."""
    return "://" in str(path)


def place_of(path: str | Path) -> Place:
    """A path as a path, also one that is written as an address (`file://`), and an address as a string."""
    text = str(path)
    if text.startswith("file://"):
        return Path(unquote(text.removeprefix("file://")))
    return text if is_remote(text) else Path(path)


def within(folder: Place, name: str) -> Place:
    """What is called so in a folder."""
    return folder / name if isinstance(folder, Path) else f"{folder.rstrip('/')}/{name}"


@contextmanager
def told(url: str, what: str = "read") -> Iterator[None]:
    """Says in a sentence, of a `ValueError`, what a protocol's package raises, of whatever kind it is."""
    try:
        yield
    except ImportError as error:
        raise ValueError(f"{url} needs a package that is not installed: {error}") from error
    except Exception as error:
        raise ValueError(f"{url} cannot be {what} ({in_short(error)}).") from error


def in_short(error: Exception) -> str:
    """What a protocol's package has raised, in a line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
