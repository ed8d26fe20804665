"""Grows a Hugging Face folder into another, streamed: no tensor is held longer than it takes to write it.

What a growth only copies goes from file to file inside the kernel; what it changes is read, treated and written expert
by expert, on all cores.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lit_recycle.checkpoints.card import write_card
from lit_recycle.checkpoints.hf_plan import FLOATS, GROWTH_FILE, FolderGrowth, GrownTensor, plan_folder_growth
from lit_recycle.checkpoints.reader import Stored, tensor_bytes
from lit_recycle.checkpoints.writer import (
    ShardFiles,
    Spot,
    copy_side_files,
    lay_out,
    new_folder,
    parse_size,
    write_at,
    write_json,
)
from lit_recycle.growth.engine import grow_tensor, treat_expert_copy
from lit_recycle.growth.event import Depth, Width

TORCH = {code: getattr(torch, name) for name, code in FLOATS.items()} | {"F64": torch.float64}
CHUNK = 16 * 2**20


def _no_copy_file_range(*arguments: int) -> int:
    raise OSError(errno.ENOSYS, "this system has no copy_file_range")


COPY_FILE_RANGE: Callable[..., int] = getattr(os, "copy_file_range", _no_copy_file_range)
Progress = Callable[[int], None]
"""Called with the number of bytes just written, from several threads."""


def grow_folder(
    source: str | Path,
    destination: str | Path,
    depth: Depth | None = None,
    width: Width | None = None,
    *,
    seed: int = 0,
    dtype: str | None = None,
    max_shard_size: str | int = "5GB",
    progress: Progress | None = None,
) -> FolderGrowth:
    """Grow the model in a Hugging Face folder into a new folder that ``transformers`` loads.

    Args:
        source: Folder with ``config.json`` and safetensors, of a family in ``lit-recycle families``.
        destination: Folder to be written; must not exist. It appears when all of it is written.
        depth: Growth in depth, if any.
        width: Growth in width, if any.
        seed: Seed of the noise on duplicated experts.
        dtype: Type to convert weights to: ``float32``, ``float16`` or ``bfloat16``.
        max_shard_size: Size of a safetensors file, as in ``5GB``.
        progress: Called with the number of bytes written.

    Raises:
        ValueError: For whatever stands in the way, before the first byte is written.
    """
    growth = plan_folder_growth(source, depth, width, seed=seed, dtype=dtype)
    write_grown(growth, destination, max_shard_size=max_shard_size, progress=progress)
    return growth


def write_grown(
    growth: FolderGrowth,
    destination: str | Path,
    *,
    max_shard_size: str | int = "5GB",
    progress: Progress | None = None,
) -> None:
    """Carry out a planned growth; see :func:`grow_folder`."""
    shards = lay_out([tensor.spec for tensor in growth.tensors], parse_size(max_shard_size))
    with new_folder(Path(destination).expanduser(), sum(shard.nbytes for shard in shards)) as folder:
        with ShardFiles(folder, shards) as files, _Sources(growth) as sources:
            _write_all(growth, sources, files, progress or (lambda nbytes: None))
        write_json(folder / "config.json", growth.config)
        write_json(folder / GROWTH_FILE, {"growths": [*growth.history, growth.record()]})
        write_card(growth, folder)
        copy_side_files(growth.source.path, folder)


def _write_all(growth: FolderGrowth, sources: _Sources, files: ShardFiles, progress: Progress) -> None:
    def write(tensor: GrownTensor) -> None:
        _write_tensor(growth, tensor, sources, files[tensor.spec.name])
        progress(tensor.spec.nbytes)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # parallel over tensors instead, where nothing waits for a slowest part
    try:
        with ThreadPoolExecutor(threads) as pool:
            try:
                for _ in pool.map(write, growth.tensors):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
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
        data = bytearray(self.nbytes)
        view, offset = memoryview(data), self.offset
        while view:
            done = os.preadv(self.file, [view], offset)
            if done == 0:
                raise OSError("a source file became shorter while it was read")
            view, offset = view[done:], offset + done
        return torch.frombuffer(data, dtype=TORCH[self.dtype]).view(self.shape)


class _Sources:
    """The source's files, open for reading."""

    def __init__(self, growth: FolderGrowth) -> None:
        self._paths = {tensor.path for tensor in growth.source.tensors.values()}
        self._files: Mapping[Path, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> _Sources:
        self._files = {path: self._stack.enter_context(path.open("rb", buffering=0)).fileno() for path in self._paths}
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def whole(self, tensor: Stored) -> Slice:
        return Slice(self._files[tensor.path], tensor.offset, tensor.dtype, tensor.shape)


def _write_tensor(growth: FolderGrowth, tensor: GrownTensor, sources: _Sources, spot: Spot) -> None:
    plan, place, dtype = growth.plan, tensor.place, tensor.spec.dtype
    source = sources.whole(tensor.source)
    if place.layer is None:
        _copy(source, dtype, spot)
    elif plan.zero_output and place.role.output and plan.is_layer_copy(place.layer):
        return  # a new file is zero where nothing was written
    elif place.role.balance and plan.grows_experts(place.layer):
        grown = grow_tensor(plan, place, source.read().flatten())
        _write(grown, dtype, spot)
    else:
        noisy = plan.noise > 0 and place.role.matrices
        for expert, piece in _by_expert(growth, tensor, source):
            if noisy and expert is not None and plan.is_expert_copy(place.layer, expert):
                values = piece.read().to(TORCH[dtype])
                _write(treat_expert_copy(plan, place, expert, values), dtype, spot)
            else:
                _copy(piece, dtype, spot)
            spot = Spot(spot.file, spot.offset + piece.nbytes * tensor.spec.nbytes // _grown_bytes(tensor))


def _grown_bytes(tensor: GrownTensor) -> int:
    """Bytes of the grown tensor in the source's type."""
    return tensor_bytes(tensor.source.dtype, tensor.spec.shape)


def _by_expert(growth: FolderGrowth, tensor: GrownTensor, source: Slice) -> Iterator[tuple[int | None, Slice]]:
    """The parts of a grown tensor in order, each with its expert of the grown model."""
    place, plan = tensor.place, growth.plan
    assert place.layer is not None
    if not (place.role.expert_axis and plan.grows_experts(place.layer)):
        yield place.expert, source
        return
    row = source._replace(shape=source.shape[1:])
    for expert, origin in enumerate(plan.experts[place.layer]):
        yield expert, row._replace(offset=source.offset + origin * row.nbytes)


def _copy(source: Slice, dtype: str, spot: Spot) -> None:
    if dtype == source.dtype:
        _copy_bytes(source, spot)
        return
    count = source.nbytes // tensor_bytes(source.dtype, (1,))
    step = CHUNK // tensor_bytes(source.dtype, (1,))
    for start in range(0, count, step):
        piece = Slice(
            source.file, source.offset + tensor_bytes(source.dtype, (start,)), source.dtype, (min(step, count - start),)
        )
        _write(piece.read(), dtype, Spot(spot.file, spot.offset + tensor_bytes(dtype, (start,))))


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


def _write(tensor: Tensor, dtype: str, spot: Spot) -> None:
    data = tensor.to(TORCH[dtype]).contiguous().reshape(-1).view(torch.uint8)
    write_at(spot.file, data.numpy().data, spot.offset)
