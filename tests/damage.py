"""Damage as disks, networks and copies do it to files: a flipped bit, a stretch of zeros, a lost end."""

from __future__ import annotations

import os
import random
from pathlib import Path


def flip(path: Path, seed: int) -> int:
    """Flip a bit of a file that a seed chooses; returns its byte. Times and size stay, as when a disk does it."""
    stat = path.stat()
    at = random.Random(f"{path.name}/{seed}").randrange(stat.st_size * 8)
    with path.open("r+b") as file:
        file.seek(at // 8)
        byte = file.read(1)[0]
        file.seek(at // 8)
        file.write(bytes([byte ^ 1 << at % 8]))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    return at // 8


def zero(path: Path, seed: int, size: int = 4096) -> None:
    """Replace a stretch of a file, which must hold something else, by zeros."""
    data = bytearray(path.read_bytes())
    starts = [i for i in range(0, max(len(data) - size, 1), 512) if any(data[i : i + size])]
    at = random.Random(f"{path.name}/{seed}").choice(starts)
    end = min(at + size, len(data))
    data[at:end] = bytes(end - at)
    path.write_bytes(data)
