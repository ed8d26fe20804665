"""Memory allocator settings: what training steps free is kept, not given back to the system and taken again."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Parameters of glibc's ``mallopt`` (man 3 mallopt)."""
PAD = 2**26


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, for a process that trains on a CPU.

    A step frees and allocates the same activations and gradients again and again. By default glibc maps each large one
    anew, and the kernel clears it page by page. The process stays at its peak of memory instead. Without glibc nothing
    changes.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)  # not a high M_MMAP_THRESHOLD: older versions refuse one above 32 MB
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_TOP_PAD, PAD)
