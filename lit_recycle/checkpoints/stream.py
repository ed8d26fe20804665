"""Moves tensors from safetensors files to safetensors files: copied inside the kernel, or read, treated and written.

Tensors are handled by several threads at once, each holding no more than the piece it works on.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from lit_recycle.checkpoints.hf_plan import FLOATS
from lit_recycle.checkpoints.reader import Stored, tensor_bytes
from lit_recycle.checkpoints.writer import Spot, write_at

T = TypeVar("T")
TORCH = {code: getattr(torch, name) for name, code in FLOATS.items()} | {"F64": torch.float64}
"""The types that arithmetic is done in, by their name in safetensors."""
CHUNK = 16 * 2**20

_LOCAL = threading.local()


def _no_copy_file_range(*arguments: int) -> int:
    raise OSError(errno.ENOSYS, "this system has no copy_file_range")


COPY_FILE_RANGE: Callable[..., int] = getattr(os, "copy_file_range", _no_copy_file_range)
Progress = Callable[[int], None]
"""Called with the number of bytes just written, from several threads."""


def in_parallel(write: Callable[[T], None], items: Iterable[T]) -> None:
    """Call for each item, on all cores; the first error ends it all."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # parallel over tensors instead, where nothing waits for a slowest part
    pool = ThreadPoolExecutor(threads)
    try:
        for _ in pool.map(write, items):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)


class Slice(NamedTuple):
    """A run of bytes in a source file: a tensor, or an expert's part of it."""

    file: int
    offset: int
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)

    def read(self) -> Tensor:
        """The tensor, in memory that the thread's next read overwrites: fresh pages cost more than the reading."""
        data = _scratch(self.nbytes)
        view, offset = memoryview(data), self.offset
        while view:
            done = os.preadv(self.file, [view], offset)
            if done == 0:
                raise OSError("a source file became shorter while it was read")
            view, offset = view[done:], offset + done
        return torch.frombuffer(data, dtype=TORCH[self.dtype]).view(self.shape)


def _scratch(nbytes: int) -> memoryview:
    held = getattr(_LOCAL, "scratch", None)
    if held is None or len(held) < nbytes:
        held = _LOCAL.scratch = bytearray(nbytes)
    return memoryview(held)[:nbytes]


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

    def whole(self, tensor: Stored) -> Slice:
        return Slice(self._files[tensor.path], tensor.offset, tensor.dtype, tensor.shape)


def copy(source: Slice, dtype: str, spot: Spot) -> None:
    """Put a slice into its place as ``dtype``."""
    if dtype == source.dtype:
        _copy_bytes(source, spot)
        return
    count = source.nbytes // tensor_bytes(source.dtype, (1,))
    step = CHUNK // tensor_bytes(source.dtype, (1,))
    for start in range(0, count, step):
        piece = Slice(
            source.file, source.offset + tensor_bytes(source.dtype, (start,)), source.dtype, (min(step, count - start),)
        )
        write(piece.read(), dtype, Spot(spot.file, spot.offset + tensor_bytes(dtype, (start,))))


def _copy_bytes(source: Slice, spot: Spot) -> None:
    """Inside the kernel where file systems allow it, else through a buffer."""
    left, read_at, write_to = source.nbytes, source.offset, spot.offset
    while left:
        try:
            done = COPY_FILE_RANGE(source.file, spot.file, left, read_at, write_to)
        except OSError:  # between file systems, or on one that cannot: read and write
            data = os.pread(source.file, min(left, CHUNK), read_at)
            write_at(spot.file, data, write_to)
            done = len(data)
        if done == 0:
            raise OSError("a source file became shorter while it was read")
        left, read_at, write_to = left - done, read_at + done, write_to + done


def write(tensor: Tensor, dtype: str, spot: Spot) -> None:
    """Put a tensor into its place as ``dtype``."""
    data = tensor.to(TORCH[dtype]).contiguous().reshape(-1).view(torch.uint8)
    write_at(spot.file, data.numpy().data, spot.offset)
