"""Garbage collection disabled while objects are made that live as long as the process."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_gc() -> Iterator[None]:
    """Make many objects that stay, as importing torch and Lightning does.

    The collector would walk through them again and again while they are made, at each of its full rounds in a run, and
    once more when the process ends: a third of the time that `import lightning` takes. Frozen, it never looks at them.

    Example::

        with without_gc():
            from lit_recycle.training.module import LitMoE
    """
    gc.collect()  # what is garbage already would be frozen too, and stay: a whole run's, where this is not the first
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
