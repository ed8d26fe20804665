"""A line of the table that ``make bench`` writes, and what it was measured on."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One comparison: this project beside its rival, in one run."""

    what: str
    ours: str
    rival: str
    ratio: str
    """Of ours to the rival's, with its unit: ``1.3 ×``."""
    goal: str
    """What the ratio should be: ``≥ 1.3 ×``."""
