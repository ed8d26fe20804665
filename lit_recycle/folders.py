"""Folders made for something that may come to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def folder_in_use(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; those of them that were made here and are empty in the end are gone again."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in made:
            with suppress(OSError):  # something is in it
                path.rmdir()
