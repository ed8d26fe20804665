"""Tokenised data by its path: which files it is, how many tokens are in them, and where documents end.

A reader looks at a path and says `None` if it is not of its format; one row in `READERS` adds a format.
"""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from pathlib import Path

from lit_recycle.data.formats import datasets, flat, litdata, megatron
from lit_recycle.data.formats.files import TokenFiles, joined
from lit_recycle.data.sources import check_named, holds_text

READERS = (litdata.read, datasets.read, megatron.read, flat.read)


def find_tokens(path: str | list[str], dtype: str, column: str) -> TokenFiles | None:
    """The tokenised files that a path means; None where it means none, and text is to be read.

    Args:
        path: a file, a folder, a glob, or a list of these.
        dtype: integer type of files that do not say theirs.
        column: column of the ids in Hugging Face datasets.

    Raises:
        ValueError: a file is damaged, or files of this kind lie beside text.
    """
    entries = [path] if isinstance(path, str) else list(path)
    found: list[TokenFiles] = []
    text: list[str] = []
    for entry in entries:
        files = [files for place in _places(entry) for files in _read(place, dtype, column)]
        found += files
        if not files:
            text.append(entry)
    if found and text:
        raise ValueError(
            f"path={path!r}: {found[0].pieces[0].path} holds ids and {text[0]!r} does not; make them two sources"
        )
    return joined(found) if found else None


def _places(entry: str) -> list[Path]:
    root = Path(check_named(entry)).expanduser()
    if root.exists() or not glob.has_magic(entry):
        return [root]
    return _once(Path(match) for match in sorted(glob.glob(str(root), recursive=True)))


def _once(files: Iterable[Path]) -> list[Path]:
    """Without the indices whose ids are there, too."""
    found = list(files)
    return [file for file in found if file.suffix != ".idx" or file.with_suffix(".bin") not in found]


def _read(place: Path, dtype: str, column: str) -> Iterator[TokenFiles]:
    """What a file or folder is as a whole; or else, in a folder without text, what the files in it are."""
    whole = next((files for read in READERS if (files := read(place, dtype, column))), None)
    if whole is not None:
        yield whole
    elif place.is_dir() and not holds_text(place):
        for file in _once(sorted(file for file in place.rglob("*") if file.suffix in flat.ENDINGS)):
            yield from _read(file, dtype, column)
