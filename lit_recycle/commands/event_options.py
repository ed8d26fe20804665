"""Single fields of growth events on the command line: ``--growth.events.0.at.steps 200``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from lit_recycle.commands.growth_callback import GROWTH_CALLBACK, growth_callbacks

_OPTION = re.compile(r"--growth\.(\w.*)")


def split_off(argv: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    """The options of a command line without those of events, and those, by their path below ``init_args``.

    Raises:
        ValueError: For an option without a value.
    """
    rest, found, words = [], {}, iter(argv)
    for word in words:
        name, equals, value = word.partition("=")
        if not (option := _OPTION.fullmatch(name)):
            rest.append(word)
            continue
        text = value if equals else next(words, None)
        if text is None:
            raise ValueError(f"{name} has no value")
        found[option[1]] = yaml.safe_load(text)
    return rest, found


def apply(options: dict[str, Any], config: dict[str, Any]) -> None:
    """Write options into the growth callback of a configuration in plain types.

    A trigger of another unit takes the place of the one that is there: ``at.tokens`` that of ``at.steps``.

    Raises:
        ValueError: Where there is no such callback or event.
    """
    growth = next(iter(growth_callbacks(config.get("trainer", {}).get("callbacks"))), None)
    for path, value in options.items():
        if growth is None:
            raise ValueError(f"--growth.{path}: trainer.callbacks has no {GROWTH_CALLBACK}")
        *parents, last = path.split(".")
        below: Any = growth.setdefault("init_args", {})
        for number, part in enumerate(parents):
            below = _step(below, part, f"--growth.{'.'.join(parents[: number + 1])}")
        if parents[-1:] in (["at"], ["until"]):
            below.clear()
        if isinstance(below, list):  # a whole event
            _step(below, last, f"--growth.{path}")
            below[int(last)] = value
        else:
            below[last] = value


def _step(below: Any, part: str, where: str) -> Any:
    if isinstance(below, list):
        if not part.isdigit() or int(part) >= len(below):
            raise ValueError(
                f"{where}: there are events 0 to {len(below) - 1}, and no {part!r}; --growth.events gives all anew"
            )
        return below[int(part)]
    if below.get(part) is None:
        below[part] = {}
    return below[part]
