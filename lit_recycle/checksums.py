"""Checksums of files (XXH3): what a disk, a network or a copy has changed is found when it is read.

They run at the speed of memory, an order of magnitude faster than disks, and the pass over a file brings it into the
page cache for whoever reads it next.
"""

from __future__ import annotations

import mmap
import os
import struct
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import xxhash

CHUNK = 1 << 22
"""Bytes that are hashed in one piece; part of the definition of a file's checksum."""
THREADS = 4

_POPULATE_READ = 22
"""Linux' MADV_POPULATE_READ, which Python does not name: a piece's pages in one call, half the time when cached."""

_PREFIX = b"xxh3:"
_COMMENT = len(_PREFIX) + 32
_END = struct.Struct("<4s4H2LH")
"""A zip archive's end record; its last field is the length of the comment that follows."""

_verified: set[tuple[str, int, int, int]] = set()


def file_checksum(path: Path, size: int | None = None) -> str:
    """XXH3 over the XXH3 of each chunk of a file, or of its first ``size`` bytes; hexadecimal."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size if size is None else size
        if not size:
            return xxhash.xxh3_128_hexdigest(b"")
        with (
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            memoryview(mapped) as view,
            ThreadPoolExecutor(THREADS) as pool,
        ):
            parts = pool.map(lambda at: _digest(mapped, view, at, size), range(0, size, CHUNK))
            return xxhash.xxh3_128_hexdigest(b"".join(parts))


def _digest(mapped: mmap.mmap, view: memoryview, at: int, size: int) -> bytes:
    with suppress(OSError, ValueError):  # an older kernel, or another system: then page by page
        mapped.madvise(_POPULATE_READ, at, min(CHUNK, size - at))
    with view[at : min(at + CHUNK, size)] as part:
        return xxhash.xxh3_128_digest(part)


# --- archives, which carry their own ---------------------------------------------------------------------------------


def seal(archive: Path) -> None:
    """Write an archive's checksum into its comment. Whoever reads zip archives, torch too, passes over it."""
    size = archive.stat().st_size
    checksum = file_checksum(archive, size - 2)
    with archive.open("r+b") as file:
        file.seek(size - 2)
        file.write(struct.pack("<H", _COMMENT) + _PREFIX + checksum.encode())


def verify_archive(path: Path) -> None:
    """Raises ``ValueError`` for an archive that is not, byte for byte, what was written.

    One without a checksum of ours, as other programs write them, is held against the sums of its entries, which takes
    longer.
    """
    if _is_known(path):
        return
    if not _has_end(path):
        raise ValueError(f"{path} is no checkpoint, or one that was cut off: its archive has no end; use an older one")
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(size - _END.size - _COMMENT, 0))
        end, comment = file.read(_END.size), file.read()
    if comment.startswith(_PREFIX) and _END.unpack(end)[-1] == _COMMENT:
        whole = file_checksum(path, size - _COMMENT - 2) == comment[len(_PREFIX) :].decode("ascii", "replace")
    else:
        whole = _entries_are_whole(path)
    if not whole:
        raise ValueError(damaged(path))
    _remember(path)


def damaged(path: Path) -> str:
    """What to say of a file whose checksum is wrong."""
    return (
        f"{path} is damaged: its bytes are not those that were written, by their checksum; use an older checkpoint "
        "(--ckpt_path last finds the newest whole one), or copy it again"
    )


def _has_end(path: Path) -> bool:
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # it has one, which makes no sense
        return False


def _entries_are_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return not archive.comment and archive.testzip() is None
    except Exception:  # zipfile raises what comes along, from struct.error to NotImplementedError
        return False


# --- files whose checksums lie elsewhere -----------------------------------------------------------------------------


def verify_file(path: Path, size: int, checksum: str | None) -> None:
    """Raises ``ValueError`` for a file that is missing, of another size, or has another checksum, if one is given."""
    if not path.is_file() or path.stat().st_size < size:
        raise ValueError(f"{path} is missing or cut off: use an older checkpoint, or copy the folder again, as a whole")
    if _is_known(path):
        return
    if path.stat().st_size != size or checksum not in (None, file_checksum(path)):
        raise ValueError(damaged(path))
    if checksum is not None:
        _remember(path)


def checksums(paths: Iterable[Path]) -> dict[str, tuple[int, str]]:
    """Size and checksum of files, by their names."""
    return {path.name: (path.stat().st_size, file_checksum(path)) for path in paths}


def _identity(path: Path) -> tuple[str, int, int, int]:
    stat = path.stat()
    return os.path.abspath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns


def _is_known(path: Path) -> bool:
    """Whether this process has verified the file before: a run looks at its checkpoint several times."""
    return path.is_file() and _identity(path) in _verified


def _remember(path: Path) -> None:
    _verified.add(_identity(path))
