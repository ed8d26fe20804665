"""A sparse copy of a file on a server, whose blocks are fetched when they are first read.

    <name>           as long as the file on the server, with holes
    <name>.blocks    the XXH3 (64 bits, little endian) of each block that is here, and 0 for those that are not

Any number of processes read a copy at once: two that miss the same block write the same bytes.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import numpy as np
import xxhash

from lit_recycle.addresses import in_short

log = logging.getLogger(__name__)

BLOCK = 1 << 22
"""Bytes; part of the format."""
ADDRESS = ".url"
SUMS = ".blocks"
ATTEMPTS = 5
"""Pauses of 1, 2, 4 and 8 seconds between them: a network fails for a moment more often than for good."""


def make_sparse_copy(path: Path, url: str, size: int) -> None:
    """A copy with nothing in it but the first block, which holds the header of formats that have one.

    Raises:
        ValueError: the server does not give the block.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _beside(path, ADDRESS).write_text(url)
    np.zeros(-(-size // BLOCK), "<u8").tofile(_beside(path, SUMS))
    with open(path, "wb") as stream:
        stream.truncate(size)
    fetch_range(path, 0, min(size, BLOCK))


def remove_copy(path: Path) -> None:
    """A copy, or what a killed process has left of one."""
    for file in (path, _beside(path, SUMS), _beside(path, ADDRESS)):
        file.unlink(missing_ok=True)


def fetch_range(path: Path, start: int, end: int) -> None:
    """Make the bytes `start` to `end` of a file readable: nothing is done for one that is no sparse copy."""
    if copy := SparseCopy.of(path):
        copy.verify(start, end)


class SparseCopy:
    """What this process knows of a copy.

    Args:
        path: The copy.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.url = path, _beside(path, ADDRESS).read_text()
        self._sums = np.memmap(_beside(path, SUMS), "<u8", mode="r+")
        self._content = np.memmap(path, np.uint8, mode="r")
        self._seen = bytearray(len(self._sums))

    @classmethod
    def of(cls, path: Path) -> SparseCopy | None:
        """None for a file that is no sparse copy."""
        return cls(path) if _beside(path, ADDRESS).is_file() and path.stat().st_size else None

    def verify(self, start: int, end: int) -> None:
        """Fetch the blocks of the bytes `start` to `end` that are not here, and look at those that are.

        Raises:
            ValueError: a block is damaged, or the server does not give it.
        """
        for block in range(start // BLOCK, -(-end // BLOCK)):
            if not self._seen[block]:
                self._look(block)
                self._seen[block] = True

    def _look(self, block: int) -> None:
        begin, end = block * BLOCK, min((block + 1) * BLOCK, len(self._content))
        if not self._sums[block]:
            content = _get(self.url, begin, end)
            with open(self.path, "r+b") as stream:
                stream.seek(begin)
                stream.write(content)
            self._sums[block] = _sum(content)
        elif _sum(self._content[begin:end].data) != self._sums[block]:
            raise ValueError(f"{self.path} is damaged: remove {self.path.parent}, it will be fetched anew")


def _sum(content: bytes | memoryview) -> int:
    return xxhash.xxh3_64_intdigest(content) or 1


def _get(url: str, start: int, end: int) -> bytes:
    """A range of bytes; the file system is asked for each time, since one that was made before a fork would hang."""
    import fsspec

    for attempt in range(ATTEMPTS):
        try:
            system, path = fsspec.core.url_to_fs(url)
            content: bytes = system.cat_file(path, start=start, end=end)
            if len(content) != end - start:
                raise OSError(f"{len(content):,} bytes came of {end - start:,}")
            return content
        except Exception as error:  # whatever the protocol's package raises
            if attempt == ATTEMPTS - 1:
                raise ValueError(f"{url}, bytes {start:,} to {end:,}, cannot be read ({in_short(error)}).") from error
            log.warning("%s, bytes %d to %d, is asked for again (%s).", url, start, end, in_short(error))
            time.sleep(2**attempt)
    raise AssertionError


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)
