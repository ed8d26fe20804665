"""Importing torch and Lightning without the garbage collector in between."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def heavy_imports() -> Iterator[None]:
    """Import in here what makes a million objects that live as long as the process.

    The collector would walk through them again and again while they are made, at each of its full rounds in a run, and
    once more when the process ends: a third of the time that `import lightning` takes. Frozen, it never looks at them.

    Example::

        with heavy_imports():
            from lit_recycle.module import LitMoE
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
