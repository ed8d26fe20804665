"""A folder to work in, beside the one that is to be made; what killed processes have left of theirs is removed."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lit_recycle.folders import folder_in_use

LOCK = "lock"
"""Held for as long as its process lives."""
YOUNG = 60
"""Seconds in which a process that has made its folder also makes the lock."""


@contextmanager
def room_beside(folder: Path) -> Iterator[Path]:
    """A folder that is gone afterwards, with all that is still in it.

    Args:
        folder: what is to be made; folders to work in are named as it is, up to the first hyphen.

    Raises:
        OSError: with the place, where it cannot be written to.
    """
    place = folder.parent
    try:
        with folder_in_use(place):
            for left in place.glob(f".{folder.name.partition('-')[0]}-*"):
                if _is_abandoned(left):
                    shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=place, prefix=f".{folder.name}-") as name, _locked(Path(name)):
                yield Path(name)
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(place)) from error


@contextmanager
def _locked(room: Path) -> Iterator[None]:
    """The lock gets its name when it is held, so that nobody finds it free in between."""
    with open(room / f"{LOCK}-to-be", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        os.rename(lock.name, room / LOCK)
        yield


def _is_abandoned(left: Path) -> bool:
    try:
        with open(left / LOCK, "r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError:  # its process is about to make the lock, was killed right before, or has just finished
        with suppress(FileNotFoundError):
            return time.time() - left.stat().st_mtime > YOUNG
        return False
