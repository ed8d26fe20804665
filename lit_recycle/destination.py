"""Check of where a model is to be written."""

from __future__ import annotations

from pathlib import Path

MARKS = ("config.json", "meta.pt")
"""Files by which a folder is known for a Hugging Face model or a sharded checkpoint."""


def check_destination(destination: Path) -> None:
    """Raises ValueError for what exists already, or lies in the folder of another model."""
    if destination.exists():
        raise ValueError(f"{destination} exists already: remove it or choose another destination")
    inside = next((p for p in destination.absolute().parents if any((p / mark).is_file() for mark in MARKS)), None)
    if inside:
        raise ValueError(f"{destination} lies in {inside}, which is a model of its own: choose another destination")
