"""Lightning callbacks of lit-recycle, one per file."""

from callbacks.growth import GrowthCallback

__all__ = ["GrowthCallback"]
