"""Checks of where a model is to be written."""

from __future__ import annotations

import shutil
from pathlib import Path

MARKS = ("config.json", "meta.pt")
"""Files by which a folder is known for a Hugging Face model or a sharded checkpoint."""


def check_local(destination: Path) -> None:
    """Raises ValueError for an address, which as a path would be a folder called like its protocol."""
    if destination.parts and destination.parts[0].endswith(":"):  # a path keeps one slash of two
        address = str(destination).replace(":/", "://", 1)
        raise ValueError(f"{address} is an address, and this is written to a disk: give a path on this machine")


def check_destination(destination: Path) -> None:
    """Raises ValueError for what exists already, lies in the folder of another model, or is an address."""
    check_local(destination)
    if destination.exists():
        raise ValueError(f"{destination} exists already: remove it or choose another destination")
    inside = next((p for p in destination.absolute().parents if any((p / mark).is_file() for mark in MARKS)), None)
    if inside:
        raise ValueError(f"{destination} lies in {inside}, which is a model of its own: choose another destination")


def check_room(destination: Path, nbytes: int, at_least: bool = False) -> None:
    """Raises ValueError where so many bytes, or more, do not fit on the disk."""
    disk = next(folder for folder in destination.absolute().parents if folder.exists())
    free = shutil.disk_usage(disk).free
    if nbytes > free:
        raise ValueError(
            f"{destination} needs {'at least ' if at_least else ''}{nbytes / 1e9:,.2f} GB and {disk} has "
            f"{free / 1e9:,.2f} GB free; make room or give a destination on another disk"
        )
