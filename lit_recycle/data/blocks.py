"""A flat file whose blocks carry checksums, each verified when it is first read.

A corpus is larger than what a run reads of it in its first hour, so it is not read as a whole to begin with. Blocks are
small, for samples lie anywhere, and the checksums are an eight-thousandth of the file.
"""

from pathlib import Path

import numpy as np
import xxhash

BLOCK = 1 << 16
"""Bytes; part of the format."""


def write_sums(path: Path, sums: Path) -> None:
    """Write the XXH3 (64 bits, little endian) of each block of a file into another."""
    content = _mapped(path)
    np.array([_sum(content, i) for i in range(_count(content))], dtype="<u8").tofile(sums)


def _mapped(path: Path) -> np.ndarray:
    return np.memmap(path, dtype=np.uint8, mode="r") if path.stat().st_size else np.empty(0, dtype=np.uint8)


def _count(content: np.ndarray) -> int:
    return -(-len(content) // BLOCK)


def _sum(content: np.ndarray, block: int) -> int:
    return xxhash.xxh3_64_intdigest(content[block * BLOCK : (block + 1) * BLOCK].data)


class VerifiedBlocks:
    """Knows which blocks of a file this process has verified.

    Args:
        path: The file.
        sums: What `write_sums` has written of it.

    Raises:
        ValueError: There are not as many sums as blocks.
    """

    def __init__(self, path: Path, sums: Path) -> None:
        self.path, self._content = path, _mapped(path)
        self._sums = np.fromfile(sums, dtype="<u8")
        self._seen = bytearray(len(self._sums))
        if len(self._sums) != _count(self._content):
            raise ValueError(damaged(path))

    def verify(self, start: int, end: int) -> None:
        """Look at the blocks of the bytes `start` to `end`; raises `ValueError` where one is damaged."""
        for block in range(start // BLOCK, -(-end // BLOCK)):
            if not self._seen[block]:
                if _sum(self._content, block) != self._sums[block]:
                    raise ValueError(damaged(self.path))
                self._seen[block] = True


def damaged(path: Path) -> str:
    """What to say of a file that is not what was written."""
    return f"{path} is damaged: its bytes are not those that were written; remove {path.parent}, it will be made anew."
