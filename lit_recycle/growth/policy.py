"""Policies for an optimizer's state at a growth."""

from __future__ import annotations

from typing import Literal

OptimizerPolicy = Literal["carry", "fresh_copies", "reset"]
POLICIES: tuple[str, ...] = ("carry", "fresh_copies", "reset")
