"""Keys that a configuration gives twice: YAML takes the last one, and all that is below the first is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import yaml


def check_keys(path: str | Path) -> None:
    """Raises ``ValueError`` for a key that a file gives twice in one place; what is no YAML is left to its reader."""
    with suppress(OSError, yaml.YAMLError), open(path, encoding="utf-8") as file:
        for line, key in _twice(yaml.compose(file, Loader=yaml.SafeLoader)):
            raise ValueError(
                f"{path}, line {line}: {key} is given twice, and only what comes last would count: make one of the two"
            )


def _twice(node: yaml.Node | None, path: str = "") -> Iterator[tuple[int, str]]:
    """Line and whole name of each key that its mapping has already."""
    if isinstance(node, yaml.SequenceNode):
        for number, part in enumerate(node.value):
            yield from _twice(part, f"{path}[{number}]")
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            name = f"{path}.{key.value}".strip(".")
            if name in seen and key.value != "<<":
                yield key.start_mark.line + 1, name
            seen.add(name)
            yield from _twice(value, name)
