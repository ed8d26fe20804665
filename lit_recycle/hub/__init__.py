"""Hugging Face folders: read lazily, grown as streams, imported and exported.

One call each: ``grow_folder``, ``import_folder``, ``export_checkpoint`` and ``compare_logits``.
They are imported when asked for, so that commands which need no torch do without it.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "grow_folder": "grow",
    "import_folder": "convert",
    "export_checkpoint": "export",
    "compare_logits": "verify",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
