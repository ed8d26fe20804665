"""Shipped configurations by name: ``--config quickstart`` wherever the package is installed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "configs"


def with_shipped(argv: Sequence[str]) -> list[str]:
    """A command line in which ``--config NAME`` is a path: of a shipped configuration, where no file has that name."""
    found: list[str] = []
    for word in argv:
        option, equals, value = word.partition("=")
        if found and found[-1] == "--config":
            found.append(_path(word))
        elif option == "--config" and equals:
            found.append(f"{option}={_path(value)}")
        else:
            found.append(word)
    return found


def _path(name: str) -> str:
    shipped = FOLDER / f"{name}.yaml"
    return str(shipped) if "/" not in name and not Path(name).exists() and shipped.is_file() else name
