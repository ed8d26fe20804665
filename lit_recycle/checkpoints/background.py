"""Asynchronous saving: a copy of a checkpoint in CPU memory is written by a thread while training goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lit_recycle.checkpoints.staging import staged

T = TypeVar("T")


class Background:
    """At most one save in the background; the next one waits for it.

    Lightning's ``AsyncCheckpointIO`` is not used: it copies every checkpoint that waits into memory, deletes what a
    rotation leaves out before its replacement is whole, tells of an error at the next save, and knows one file only.
    ``torch.distributed.checkpoint.async_save`` would end with the shards: checksums and the rename come after them, and
    belong into the same thread.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._needs_peers = False
        self._error: BaseException | None = None
        self._lock, self._writing, self._afterwards = threading.Lock(), False, list[Callable[[], None]]()
        self.seconds_waited = 0.0
        """How long training has waited for earlier saves, altogether."""

    def save(self, checkpoint: T, write: Callable[[T], None], needs_peers: bool) -> None:
        """Copy a checkpoint, and let it be written.

        Args:
            checkpoint: Tensors, sharded or not, within plain types. It may change as soon as this has returned.
            write: Writes the copy.
            needs_peers: Whether the other processes take part, and do not when they are lost.

        Raises:
            BaseException: That of the save before.
        """
        self.wait()
        copy = staged(checkpoint)
        self._needs_peers, self._writing = needs_peers, True
        # A daemon: a process that has lost its peers must be able to end; `lit_recycle.cli` knows it by its name.
        self._thread = threading.Thread(target=self._run, args=(write, copy), name="async-save", daemon=True)
        self._thread.start()

    def _run(self, write: Callable[[T], None], copy: T) -> None:
        try:
            write(copy)
            with self._lock:
                self._writing = False
            for action in self._afterwards:
                action()
        except BaseException as error:  # told by whoever waits or looks
            self._error = error
        finally:
            self._writing = False
            self._afterwards.clear()

    def afterwards(self, action: Callable[[], None]) -> None:
        """Do something as soon as the save at hand has gone well: at once if there is none, never if it fails."""
        with self._lock:
            if self._writing:
                self._afterwards.append(action)
                return
        if self._error is None:
            action()

    @property
    def is_saving(self) -> bool:
        """Whether something is being written."""
        return self._writing

    def check(self) -> None:
        """Raises what has gone wrong in the background, once."""
        if self._error is not None and not self._writing:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Until nothing is being saved.

        Raises:
            BaseException: What has gone wrong in the background, once.
        """
        if self._thread is not None:
            begun = time.perf_counter()
            self._thread.join()
            self.seconds_waited += time.perf_counter() - begun
            self._thread = None
        self.check()

    def wait_alone(self) -> None:
        """`wait`, where other processes are lost: what they take part in will not come to an end."""
        if self._needs_peers:
            self._thread = self._error = None
        self.wait()
