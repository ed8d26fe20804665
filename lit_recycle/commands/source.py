"""Where a checkpoint that a command is given lies on disk."""

from __future__ import annotations

from pathlib import Path

from lit_recycle.addresses import is_remote
from lit_recycle.commands.without_gc import without_gc


def source_on_disk(source: str) -> Path:
    """A path as it is, and a checkpoint at an address where it has been fetched to.

    Raises:
        ValueError: There is nothing at the address, or it cannot be read.
    """
    if not is_remote(source):
        return Path(source).expanduser()
    with without_gc():  # torch is imported for an address alone: a plan of a folder begins without it
        from lit_recycle.checkpoints.remote import on_disk

    return on_disk(source)
