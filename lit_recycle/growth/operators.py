"""Where layers and experts of a grown model come from. Each operator is one function and one row of its table."""

from __future__ import annotations

from collections.abc import Callable

SourceLayers = tuple[int, ...]


def interpose(num_layers: int, factor: int, keep_first: int = 0, keep_last: int = 0) -> SourceLayers:
    """Repeat each layer in place, the kept ones once: ``0 0 1 1 2 2`` for three layers and factor two."""
    last = num_layers - keep_last
    return tuple(i for i in range(num_layers) for _ in range(factor if keep_first <= i < last else 1))


def stack(num_layers: int, factor: int, keep_first: int = 0, keep_last: int = 0) -> SourceLayers:
    """Repeat the whole block: ``0 1 2 0 1 2``. Kept layers stand only in the first or in the last pass.

    With both kept this is SOLAR's depth up-scaling (Kim et al. 2023).
    """
    passes = [
        range(keep_first if i > 0 else 0, num_layers - (keep_last if i < factor - 1 else 0)) for i in range(factor)
    ]
    return tuple(layer for layers in passes for layer in layers)


DepthMethod = Callable[[int, int, int, int], SourceLayers]
DEPTH_METHODS: dict[str, DepthMethod] = {"interposition": interpose, "stack": stack}


def duplicate(num_experts: int, factor: int) -> tuple[int, ...]:
    """Repeat each expert in place: ``0 0 1 1`` for two experts and factor two.

    In place rather than appended, because then a rank that holds a contiguous slice of the experts holds the sources
    of the same slice of the grown ones.
    """
    return tuple(e for e in range(num_experts) for _ in range(factor))


def append(num_experts: int, factor: int) -> tuple[int, ...]:
    """Repeat the whole block of experts: ``0 1 0 1`` for two experts and factor two.

    Routing that is limited to groups of neighbouring experts keeps its function only if whole groups are added.
    """
    return tuple(range(num_experts)) * factor
