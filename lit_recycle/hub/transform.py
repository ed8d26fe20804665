"""Tensors that are not only copied on their way from file to file: converted, or computed from others."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor

from lit_recycle.hub.finite import check_finite
from lit_recycle.hub.reader import FLOATS, tensor_bytes
from lit_recycle.hub.stream import CHUNK, Part, Progress, Slice, in_parallel, scratch
from lit_recycle.hub.writer import Spot, move_bytes, write_at

TORCH = {code: getattr(torch, name) for name, code in FLOATS.items()} | {"F64": torch.float64}
"""The types that arithmetic is done in, by their name in safetensors."""


def transform(slices: Iterable[Sequence[Part]], progress: Progress) -> None:
    """Carry out parts that are to be converted or computed, given by the slices that they share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # parallel over tensors instead, where nothing waits for a slowest part
    try:
        in_parallel(partial(_transform, progress), slices, threads)
    finally:
        torch.set_num_threads(threads)


def _transform(progress: Progress, parts: Sequence[Part]) -> None:
    if all(part.make is None or part.by_element for part in parts):
        _by_pieces(progress, parts)
        return
    stored = [_read(source, 0, prod(source.shape), f"source {i}") for i, source in enumerate(parts[0].sources)]
    for part in parts:
        if part.is_copy:
            progress(write(stored[0], part.dtype, part.spot))
            continue
        copies = [
            _converted(values, part.dtype, f"copy {i}", source.origin).view(source.shape)
            for i, (values, source) in enumerate(zip(stored, part.sources, strict=True))
        ]
        progress(write(part.make(copies) if part.make else copies[0], part.dtype, part.spot))


def _by_pieces(progress: Progress, parts: Sequence[Part]) -> None:
    """What needs no whole tensor at once, piece by piece."""
    sources = parts[0].sources
    count, step = prod(sources[0].shape), CHUNK // max(tensor_bytes(source.dtype, (1,)) for source in sources)
    for start in range(0, count, step):
        number = min(step, count - start)
        stored = [_read(source, start, number, f"source {i}") for i, source in enumerate(sources)]
        for part in parts:
            values = stored
            if not part.is_copy:
                values = [
                    _converted(piece, part.dtype, f"copy {i}", source.origin)
                    for i, (piece, source) in enumerate(zip(stored, sources, strict=True))
                ]
            made = part.make(values) if part.make else values[0]
            spot = Spot(part.spot.file, part.spot.offset + tensor_bytes(part.dtype, (start,)))
            progress(write(made, part.dtype, spot))


def _read(source: Slice, start: int, count: int, use: str) -> Tensor:
    """Values of a slice, flat, in memory that the thread's next read for the same use overwrites."""
    item = tensor_bytes(source.dtype, (1,))
    data = scratch(use, count * item)
    move_bytes(os.preadv, source.file, data, source.offset + start * item)
    check_finite(data, source.dtype, source.origin)
    return torch.frombuffer(data, dtype=TORCH[source.dtype]) if count else torch.empty(0, dtype=TORCH[source.dtype])


def _converted(values: Tensor, dtype: str, use: str, origin: str) -> Tensor:
    if not values.numel():
        return values.to(TORCH[dtype])
    data = scratch(use, tensor_bytes(dtype, tuple(values.shape)))
    return fitting(torch.frombuffer(data, dtype=TORCH[dtype]).copy_(values), origin)


def converted(tensor: Tensor, dtype: torch.dtype, name: str) -> Tensor:
    """A tensor as another type. Raises ``ValueError`` for values that are too large for it."""
    return fitting(tensor.to(dtype), name)


def fitting(made: Tensor, name: str) -> Tensor:
    """What was converted; raises ``ValueError`` where that has made a value infinite, as only float16 does."""
    if made.dtype == torch.float16 and not made.is_meta and made.isinf().any():
        raise ValueError(f"{name} holds values above 65504, the largest of float16: convert to bfloat16 instead")
    return made


def write(tensor: Tensor, dtype: str, spot: Spot) -> int:
    """Put a tensor into its place as ``dtype``; returns the number of bytes."""
    data = tensor.to(TORCH[dtype]).contiguous().reshape(-1).view(torch.uint8)
    return write_at(spot.file, data.numpy().data, spot.offset)
