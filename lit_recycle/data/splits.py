"""Splits of a data set in one folder: files to train on, and files that are kept from training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

TRAINED = {"train", "training"}
KEPT = {"val", "valid", "validation", "dev", "test", "eval"}


def refuse_splits(root: Path, files: Sequence[Path]) -> None:
    """Raises ValueError for a folder whose files are named as splits: it would be trained on what is kept from it."""
    names = [file.relative_to(root).as_posix() for file in files]
    trained, kept = (next((name for name in names if words & _words(name)), None) for words in (TRAINED, KEPT))
    if trained and kept:
        raise ValueError(
            f"{root} holds the splits {trained} and {kept}, and one would be trained on what it is measured on: set "
            f"data.path to {root / trained}, data.val to {{held_out: {root / kept}}} and data.val_fraction to 0"
        )


def _words(name: str) -> set[str]:
    return set(re.split("[^a-z]+", name.lower()))
