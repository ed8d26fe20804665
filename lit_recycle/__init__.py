"""Recycle trained Mixture-of-Experts checkpoints: grow them in depth and width, inside a run that goes on."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lit_recycle.callbacks import GrowthCallback
    from lit_recycle.data.module import TextData
    from lit_recycle.growth.event import Depth, GrowthEvent, Rewarm, Trigger, Width
    from lit_recycle.model.config import MoEConfig
    from lit_recycle.model.transformer import MoETransformer
    from lit_recycle.training.growable import GrowableModule
    from lit_recycle.training.module import LitMoE

_HOMES = {
    "Depth": "growth.event",
    "GrowableModule": "training.growable",
    "GrowthCallback": "callbacks",
    "GrowthEvent": "growth.event",
    "LitMoE": "training.module",
    "MoEConfig": "model.config",
    "MoETransformer": "model.transformer",
    "Rewarm": "growth.event",
    "TextData": "data.module",
    "Trigger": "growth.event",
    "Width": "growth.event",
}
__all__ = [
    "Depth",
    "GrowableModule",
    "GrowthCallback",
    "GrowthEvent",
    "LitMoE",
    "MoEConfig",
    "MoETransformer",
    "Rewarm",
    "TextData",
    "Trigger",
    "Width",
]


def __getattr__(name: str) -> Any:
    """Public names are imported when they are asked for: most commands need neither torch nor Lightning."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
