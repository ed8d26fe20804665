"""Patterns over layers that a ``config.json`` means where it has no list, such as ``layer_types``. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Pattern = Callable[[Mapping[str, Any], int], Sequence[Any]]
"""An entry for each layer, from a config and the number of layers."""


def cycle(*kinds: str) -> Pattern:
    """The kinds one after the other, again and again."""
    return lambda config, count: [kinds[i % len(kinds)] for i in range(count)]


def every(
    key: str = "sliding_window_pattern",
    default: int = 4,
    *,
    kind: Any = "full_attention",
    others: Any = "sliding_attention",
) -> Pattern:
    """Each n-th layer is of a kind of its own.

    Args:
        key: The config key of n.
        default: What a config without the key means.
        kind: Of layers n - 1, 2·n - 1, …
        others: Of all other layers.
    """

    def kinds(config: Mapping[str, Any], count: int) -> list[Any]:
        step = config.get(key) or default
        return [others if (i + 1) % step else kind for i in range(count)]

    return kinds
