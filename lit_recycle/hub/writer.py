"""Writes a Hugging Face folder: shards laid out before the first byte, a folder that appears whole or not at all.

The place of every tensor is known beforehand, so bodies may be written in any order and by several threads. No torch.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from lit_recycle.destination import check_destination, check_room
from lit_recycle.hub.checksums import is_sums
from lit_recycle.hub.reader import INDEX, ITEM_BITS, PICKLED, SINGLE, tensor_bytes

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
SHARD_SIZE = "5GB"
"""Of a safetensors file at most, if nothing else is said: as transformers writes them."""
ALIGNMENT = 4096
"""Of the first tensor in a file: a page, so that large tensors share none and each goes to disk on its own."""
RWF_DONTCACHE = 0x80
"""Of Linux 6.14, which Python has no name for: begin to write at once, and let go of a page when that is done."""
UNCACHED = 2**20
"""Bytes from which a transfer goes past the page cache; below, gathering many of them is worth a page."""
OPTIMIZER_FILES = ("optimizer.safetensors", "optimizer.json")
"""What an export leaves of an optimizer."""


class Spec(NamedTuple):
    """A tensor to be written."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return tensor_bytes(self.dtype, self.shape)


@dataclass(frozen=True)
class Shard:
    """One safetensors file to be: its header and where in the file each tensor begins."""

    filename: str
    header: bytes
    offsets: dict[str, int]
    nbytes: int


class Spot(NamedTuple):
    """Where a tensor goes."""

    file: int
    offset: int


def parse_size(text: str | int) -> int:
    """Bytes in ``5GB``, ``500MB``, ``2GiB`` or a plain number."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    if match is None or match[2].upper() not in UNITS or float(match[1]) == 0:
        raise ValueError(f"a size must look like 5GB, 500MB or 2GiB, got {text!r}")
    return int(float(match[1]) * UNITS[match[2].upper()])


def lay_out(specs: Sequence[Spec], max_shard_size: int) -> list[Shard]:
    """Shards of at most so many bytes, larger only where a single tensor is."""
    groups: list[list[Spec]] = [[]]
    size = 0
    for spec in specs:
        if groups[-1] and size + spec.nbytes > max_shard_size:
            groups.append([])
            size = 0
        groups[-1].append(spec)
        size += spec.nbytes
    count = len(groups)
    names = [SINGLE] if count == 1 else [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    return [_shard(name, group) for name, group in zip(names, groups, strict=True)]


def _shard(filename: str, specs: Sequence[Spec]) -> Shard:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    starts, end = {}, 0
    for spec in sorted(specs, key=lambda spec: -ITEM_BITS[spec.dtype]):  # keeps every tensor aligned to its type
        starts[spec.name] = end
        end += spec.nbytes
        entries[spec.name] = {
            "dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [starts[spec.name], end]
        }  # fmt: skip
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    header = struct.pack("<Q", len(text)) + text
    return Shard(filename, header, {name: len(header) + start for name, start in starts.items()}, len(header) + end)


class ShardFiles:
    """The shards of a folder, open for writing; every byte that is not written is zero."""

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        self._files: list[int] = []
        self._spots: dict[str, Spot] = {}
        for shard in shards:
            file = os.open(folder / shard.filename, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            self._files.append(file)
            os.truncate(file, shard.nbytes)
            write_at(file, shard.header, 0)
            self._spots |= {name: Spot(file, offset) for name, offset in shard.offsets.items()}
        if len(shards) > 1:
            _write_index(folder, shards)

    def __getitem__(self, name: str) -> Spot:
        return self._spots[name]

    def __enter__(self) -> ShardFiles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            os.close(file)


def write_at(file: int, data: bytes | memoryview, offset: int) -> int:
    """Write all of it; returns the number of bytes."""
    view = memoryview(data).cast("B")
    move_bytes(os.pwritev, file, view, offset)
    return len(view)


def move_bytes(call: Callable[..., int], file: int, view: memoryview, offset: int) -> None:
    """``os.preadv`` or ``os.pwritev`` of a whole buffer, past the page cache where the system can and it pays.

    A checkpoint is larger than the cache, so that keeping it there drives everybody else's files out, and a fresh page
    costs several times what copying into it does.
    """
    while view:
        try:
            done = call(file, [view], offset, RWF_DONTCACHE if len(view) >= UNCACHED else 0)
        except (OSError, NotImplementedError):  # an older kernel, or a file system or a system without the flag
            done = call(file, [view], offset)
        if done == 0:
            raise OSError("a source file became shorter while it was read")
        view, offset = view[done:], offset + done


def _write_index(folder: Path, shards: Sequence[Shard]) -> None:
    total = sum(shard.nbytes - len(shard.header) for shard in shards)
    weight_map = {name: shard.filename for shard in shards for name in shard.offsets}
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def new_folder(destination: Path, nbytes: int) -> Iterator[Path]:
    """A hidden folder beside ``destination`` that takes its place at the end, and leaves nothing behind on an error.

    What an earlier, killed attempt left is removed.

    Args:
        destination: Must not exist.
        nbytes: What will be written.

    Raises:
        ValueError: If the destination exists or the disk has too little space, before anything is written.
    """
    check_destination(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.parent / f".{destination.name}.partial"
    if partial.exists():
        shutil.rmtree(partial)
    check_room(destination, nbytes)
    partial.mkdir()
    try:
        yield partial
        partial.rename(destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def copy_side_files(source: Path, target: Path) -> list[str]:
    """Copy what is neither weights, nor of them, nor written anew: tokenizer, generation config, code, licence."""
    copied = []
    for path in sorted(source.iterdir()):
        weights = (
            path.suffix in (".safetensors", ".gguf", *PICKLED) or path.name.endswith(".index.json") or is_sums(path)
        )
        if path.is_file() and not weights and path.name not in OPTIMIZER_FILES and not (target / path.name).exists():
            shutil.copy2(path, target / path.name)
            copied.append(path.name)
    return copied
