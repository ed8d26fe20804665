"""Parent-death signal: the processes of a run end with the one that has started them. Needs no torch."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

LAUNCHER = "LIT_RECYCLE_LAUNCHER"
"""Environment variable with the process that starts the others of a run on its machine."""

_PR_SET_PDEATHSIG = 1


def announce() -> None:
    """Tell the processes that this one will start who has started them."""
    os.environ[LAUNCHER] = str(os.getpid())


def end_with_parent() -> None:
    """End this process when its parent is gone. To be called first of all, before anything is imported that takes time.

    The kernel sees to it, where it is Linux, whatever this process is busy with; elsewhere a thread looks every second.
    """
    launcher = os.environ.get(LAUNCHER)
    external = "TORCHELASTIC_RUN_ID" in os.environ  # torchrun, which starts the first process, too
    if not external and os.environ.get("LOCAL_RANK", "0") == "0":
        return
    end_with(os.getppid() if external or launcher is None else int(launcher))


def end_with(parent: int) -> None:
    """End this process when ``parent``, which has started it, is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    else:
        threading.Thread(target=_watch, args=(parent,), name="end-with-parent", daemon=True).start()
    if os.getppid() != parent:  # it has ended before the kernel was told
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
