"""Splits of a data set that lie in one folder, and would be read as one corpus: told, not decided."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)

TRAINED = {"train", "training"}
KEPT = {"val", "valid", "validation", "dev", "test", "eval"}


def tell_of_splits(path: str | list[str], files: Sequence[Path]) -> None:
    """Say where what a path means is named as the splits of a data set, of which some may be kept from training.

    Args:
        path: a file, a folder, a glob, or a list of these. Files that it names one by one are meant.
        files: what was found there, without source code, which may be called anything.
    """
    named = {Path(entry).expanduser() for entry in ([path] if isinstance(path, str) else path)}
    found = [file for file in files if file not in named]
    root = os.path.commonpath([file.parent for file in found]) if found else ""
    names = [os.path.relpath(file, root) for file in found]
    words = {name: set(re.split("[^a-z]+", name.lower())) for name in names}
    trained = [name for name, said in words.items() if said & TRAINED and not said & KEPT]
    kept = [name for name, said in words.items() if said & KEPT and not said & TRAINED]
    if trained and kept:
        log.warning(
            "%s is read as one corpus, with %s and %s: to keep a split from training, give as path what is to be "
            "trained on, name the other in data.val, and set data.val_fraction to 0",
            path,
            trained[0],
            kept[0],
        )
