"""Makes a folder out of another: every tensor is read once and written to all its places. No torch for what is copied.

Tensors are handled by several threads at once, each holding no more than the piece it works on.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from lit_recycle.hub.checksums import verified
from lit_recycle.hub.finite import check_finite
from lit_recycle.hub.reader import HFFolder, Stored, tensor_bytes
from lit_recycle.hub.writer import (
    ShardFiles,
    Spec,
    Spot,
    copy_side_files,
    lay_out,
    move_bytes,
    new_folder,
    parse_size,
    write_at,
)

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
CHUNK = 16 * 2**20
"""Bytes handled at once of what nobody needs to see as a whole."""
COPIERS = 4
"""Threads that copy, however few the cores: most of the time all but one wait for the disk."""

_LOCAL = threading.local()

Progress = Callable[[int], None]
"""Called with the number of bytes just written, from several threads."""
Make = Callable[[Sequence["Tensor"]], "Tensor"]
"""Makes a tensor of those that were read; the memory that it is given may be changed."""


class Slice(NamedTuple):
    """A run of bytes in a source file: a tensor, or an expert's part of it."""

    file: int
    offset: int
    dtype: str
    shape: tuple[int, ...]
    origin: str
    """What to call it."""

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)


class Part(NamedTuple):
    """Where slices go, as which type, and what is made of them once they have that type.

    Without ``make`` there is one slice, which is copied. What is made ``by_element`` may be made piece by piece.
    """

    sources: tuple[Slice, ...]
    dtype: str
    spot: Spot
    make: Make | None = None
    by_element: bool = False

    @property
    def is_copy(self) -> bool:
        return self.make is None and self.dtype == self.sources[0].dtype


class Sources:
    """The source's files, open for reading."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = set(paths)
        self._files: dict[Path, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Sources:
        self._files = {path: self._stack.enter_context(path.open("rb", buffering=0)).fileno() for path in self._paths}
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def __getitem__(self, tensor: Stored) -> Slice:
        return Slice(self._files[tensor.path], tensor.offset, tensor.dtype, tensor.shape, tensor.origin)


class Rewriting(NamedTuple):
    """A folder that is being made out of another."""

    folder: Path
    sources: Sources
    files: ShardFiles


@contextmanager
def rewriting(
    source: HFFolder,
    destination: str | Path,
    specs: Sequence[Spec],
    max_shard_size: str | int,
    others: Collection[HFFolder] = (),
) -> Iterator[Rewriting]:
    """A new folder with a place for every tensor; the source's side files come along, except those that were written.

    Args:
        source: The folder that it is made of.
        destination: The new folder.
        specs: Its tensors.
        max_shard_size: Size of a safetensors file, as in ``5GB``.
        others: Further folders of which tensors are read.

    Raises:
        ValueError: As :func:`parse_size` and :func:`new_folder` do, and where a file of the source turns out to be
            damaged; then there is no new folder.
    """
    shards, paths = lay_out(specs, parse_size(max_shard_size)), source.paths.union(*(other.paths for other in others))
    with new_folder(Path(destination).expanduser(), sum(shard.nbytes for shard in shards)) as folder:
        checksums = dict(item for each in (source, *others) for item in each.checksums.items())
        opened = ShardFiles(folder, shards), Sources(paths)
        with verified(checksums), opened[0] as files, opened[1] as sources:
            yield Rewriting(folder, sources, files)
        copy_side_files(source.path, folder)


def pour(parts: Iterable[Part], progress: Progress) -> None:
    """Carry out all parts; slices that go to several places are read once."""
    slices: dict[tuple[Slice, ...], list[Part]] = {}
    for part in parts:
        slices.setdefault(part.sources, []).append(part)
    copied = [group for group in slices.values() if all(part.is_copy for part in group)]
    in_parallel(partial(_copy, progress), copied, COPIERS)
    if len(copied) < len(slices):
        from lit_recycle.hub.transform import transform  # which takes a second to import

        transform([group for group in slices.values() if not all(part.is_copy for part in group)], progress)


def in_parallel(write: Callable[[T], None], items: Iterable[T], threads: int) -> None:
    """Call for each item; the first error ends it all."""
    pool = ThreadPoolExecutor(threads)
    try:
        for _ in pool.map(write, items):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _copy(progress: Progress, parts: Sequence[Part]) -> None:
    """Put a slice into all its places, through memory: a call that copies inside the kernel would read it for each."""
    (source,) = parts[0].sources
    for start in range(0, source.nbytes, CHUNK):
        piece = scratch("source", min(CHUNK, source.nbytes - start))
        move_bytes(os.preadv, source.file, piece, source.offset + start)
        check_finite(piece, source.dtype, source.origin)
        for part in parts:
            progress(write_at(part.spot.file, piece, part.spot.offset + start))


def scratch(use: str, nbytes: int) -> memoryview:
    """Memory that the thread's next call for the same use overwrites: fresh pages cost more than what fills them."""
    held: bytearray | None = getattr(_LOCAL, use, None)
    if held is None or len(held) < nbytes:
        held = bytearray(nbytes)
        setattr(_LOCAL, use, held)
    return memoryview(held)[:nbytes]
