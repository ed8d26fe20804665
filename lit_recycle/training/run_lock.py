"""One run per folder: a lock that names its owner, and is void when the owner is gone."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lit_recycle.folders import folder_in_use

NAME = "run.lock"
BEAT = 20.0
"""Seconds between the owner's signs of life, which machines that share a disk go by."""
STALE = 120.0
"""Seconds without one after which the owner on another machine is taken to be gone."""


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder.

    On one machine the kernel knows whether the owner lives. Between machines, whose kernels may not tell each other,
    the time of the file's last change does.

    Raises:
        ValueError: Another run, which is named, holds it.
    """
    path = folder / NAME
    with folder_in_use(folder), path.open("a+") as file:
        _acquire(file, path)
        stop = threading.Event()
        threading.Thread(target=_beat, args=(path, stop), name="run-lock", daemon=True).start()
        try:
            yield
        finally:
            stop.set()
            path.unlink(missing_ok=True)


def _acquire(file: IO[str], path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(_taken(path, _owner(file))) from None
    owner = _owner(file)
    elsewhere = owner.get("host") not in (None, socket.gethostname())
    if elsewhere and time.time() - path.stat().st_mtime < STALE:
        raise ValueError(_taken(path, owner))
    file.truncate(0)
    json.dump({"host": socket.gethostname(), "process": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}, file)
    file.flush()


def _owner(file: IO[str]) -> dict[str, object]:
    file.seek(0)
    try:
        owner = json.loads(file.read() or "{}")
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) else {}


def _taken(path: Path, owner: dict[str, object]) -> str:
    return (
        f"{path.parent} belongs to a run that goes on: process {owner.get('process', '?')} on {owner.get('host', '?')}"
        f", since {owner.get('since', '?')}; wait for it or end it, or give another trainer.default_root_dir"
    )


def _beat(path: Path, stop: threading.Event) -> None:
    while not stop.wait(BEAT):
        try:
            os.utime(path)
        except OSError:  # the disk is away for a while, or the folder for good
            continue
