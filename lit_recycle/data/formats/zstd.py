"""Lines of files that are packed with Zstandard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from lit_recycle.data.formats.optional import zstandard_for

PART = 1 << 20


@contextmanager
def zstd_lines(packed: IO[bytes]) -> Iterator[Iterator[bytes]]:
    """The lines of an open file; all frames of it, as parallel packers write several.

    Raises:
        ValueError: it is not packed with Zstandard.
        EOFError: it is truncated.
        ModuleNotFoundError: the library `zstandard` is not installed.
    """
    yield _lines(_unpacked(packed))


def _lines(parts: Iterator[bytes]) -> Iterator[bytes]:
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
    if rest:
        yield rest


def _unpacked(packed: IO[bytes]) -> Iterator[bytes]:
    # By frames, because the library's stream ends a truncated file without a word.
    zstandard = zstandard_for(packed.name)
    frame, whole = zstandard.ZstdDecompressor().decompressobj(), True
    try:
        while part := packed.read(PART):
            while part:
                yield frame.decompress(part)
                whole, part = frame.eof, frame.unused_data
                if whole:
                    frame = zstandard.ZstdDecompressor().decompressobj()
    except zstandard.ZstdError as error:
        raise ValueError(f"{packed.name} is not packed with Zstandard ({error}).") from error
    if not whole:
        raise EOFError("the last frame is cut off")
