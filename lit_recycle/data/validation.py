"""Validation sets: what losses are measured on, and what one is called."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lit_recycle.data.batches import Samples
from lit_recycle.data.opened import Part


def _one() -> float:
    return 1.0


@dataclass(frozen=True)
class ValidationSet:
    """One of the sets that are validated on, in the order of the loaders.

    Attributes:
        name: what logs call it; empty for the split of the only source.
        tokens: how many it has, in all.
        bytes_per_token: gives the mean length of a token in bytes of text.
        is_split: whether it was split off from what is trained on; the others were named for validation only.
        samples: of it.
    """

    name: str = ""
    tokens: int = 1
    bytes_per_token: Callable[[], float] = _one
    is_split: bool = True
    samples: Samples | None = None

    @classmethod
    def of(cls, name: str, part: Part, seq_len: int, title: str, *, is_split: bool) -> ValidationSet:
        """Raises ValueError where there are too few tokens for one sample."""
        samples = Samples(part.tokens, seq_len, title)
        return cls(name, len(part.tokens), part.bytes_per_token, is_split, samples)
