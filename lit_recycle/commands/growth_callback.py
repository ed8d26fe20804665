"""The growth callback in a configuration, by any name that a parser takes: whole, short, or that of a derived class."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

GROWTH_CALLBACK = "lit_recycle.callbacks.GrowthCallback"


def growth_callbacks(callbacks: Any) -> list[Any]:
    """Those of callbacks, parsed or plain, that grow the model; a single one needs no list."""
    several = callbacks if isinstance(callbacks, list) else [callbacks]
    return [callback for callback in several if _grows(callback)]


def _grows(callback: Any) -> bool:
    if not isinstance(callback, Mapping | Namespace):
        return False
    name = str(callback.get("class_path")).rpartition(".")[2]
    return name == "GrowthCallback" or name in _derived()


def _derived() -> set[str]:
    """Names of classes that derive from it: a parser that has taken one has imported it, and nothing else would."""
    module = sys.modules.get("lit_recycle.callbacks.growth")
    found, names = [module.GrowthCallback] if module else [], set()
    while found:
        own = found.pop()
        names.add(own.__name__)
        found += own.__subclasses__()
    return names
