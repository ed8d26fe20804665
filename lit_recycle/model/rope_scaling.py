"""Scaling of rotary positions for texts longer than those of pretraining: linear, Llama 3's and YaRN. No torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class RopeScaling:
    """How rotary angles are made smaller, spelled as in a Hugging Face ``config.json``.

    ``linear`` divides all angles by the factor (Chen et al. 2023). ``llama3`` (Llama 3.1) and ``yarn`` (Peng et al.
    2023) leave pairs that turn often within the length of pretraining as they are, divide those that hardly turn, and
    go from one to the other in between.

    Args:
        rope_type: ``linear``, ``llama3`` or ``yarn``.
        factor: What the length of texts is multiplied by.
        original_max_position_embeddings: The length of pretraining; ``llama3`` and ``yarn``.
        low_freq_factor: Pairs with fewer turns than this are divided; ``llama3``.
        high_freq_factor: Pairs with more turns than this stay; ``llama3``.
        beta_slow: As ``low_freq_factor``; ``yarn``.
        beta_fast: As ``high_freq_factor``; ``yarn``.
        attention_factor: Factor on rotated queries and on rotated keys; ``yarn``, where it is
            ``0.1 · ln(factor) + 1`` when not given.
        truncate: Round the first and the last pair between the two outwards; ``yarn``.
    """

    rope_type: Literal["linear", "llama3", "yarn"]
    factor: float
    original_max_position_embeddings: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_slow: float = 1.0
    beta_fast: float = 32.0
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.rope_type not in KEYS:
            raise ValueError(f"rope_scaling.rope_type must be one of {', '.join(KEYS)}, got {self.rope_type!r}")
        for name in ("factor", "low_freq_factor", "high_freq_factor", "beta_slow", "beta_fast", "attention_factor"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"rope_scaling.{name} must be a positive number, got {value}")
        if self.rope_type != "linear" and not (self.original_max_position_embeddings or 0) >= 1:
            raise ValueError(f"rope_scaling {self.rope_type} needs original_max_position_embeddings, at least 1")
        for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
            if getattr(self, low) >= getattr(self, high):
                raise ValueError(f"rope_scaling.{low} must be smaller than {high}, got {getattr(self, low)}")

    @property
    def magnitude(self) -> float:
        """Factor on rotated queries and keys."""
        if self.rope_type != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        return yarn_magnitude(self.factor)

    @property
    def full_turns(self) -> float:
        """Turns within the length of pretraining of a pair that turns by one radian per position."""
        assert self.original_max_position_embeddings is not None
        return self.original_max_position_embeddings / (2 * math.pi)

    def keys(self) -> dict[str, Any]:
        """What says it in a ``config.json``."""
        values = {key: getattr(self, key) for key in ("rope_type", "factor", *KEYS[self.rope_type])}
        return {key: value for key, value in values.items() if value is not None}


KEYS = {
    "linear": (),
    "llama3": ("original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": ("original_max_position_embeddings", "beta_slow", "beta_fast", "attention_factor", "truncate"),
}
"""What each kind reads besides the factor."""


def yarn_magnitude(factor: float, scale: float = 1.0) -> float:
    """YaRN's factor on queries and keys, equation 22 there: attention scores grow by its square."""
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0
