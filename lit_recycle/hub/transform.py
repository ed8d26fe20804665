"""What becomes of tensors that are not only copied on their way from file to file: converted, treated, or new."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from math import prod

import torch
from torch import Tensor

from lit_recycle.hub.plan import FLOATS
from lit_recycle.hub.reader import tensor_bytes
from lit_recycle.hub.stream import CHUNK, Part, Progress, in_parallel, scratch
from lit_recycle.hub.writer import Spot, move_bytes, write_at

TORCH = {code: getattr(torch, name) for name, code in FLOATS.items()} | {"F64": torch.float64}
"""The types that arithmetic is done in, by their name in safetensors."""


def treat(slices: Iterable[Sequence[Part]], progress: Progress) -> None:
    """Carry out parts that are to be converted or treated, given by the slice that they share."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # parallel over tensors instead, where nothing waits for a slowest part
    try:
        in_parallel(partial(_treat_slice, progress), slices, threads)
    finally:
        torch.set_num_threads(threads)


def _treat_slice(progress: Progress, parts: Sequence[Part]) -> None:
    """Piece by piece, unless a part is treated, which takes the whole."""
    source = parts[0].source
    count, item = prod(source.shape), tensor_bytes(source.dtype, (1,))
    step = CHUNK // item if all(part.treat is None for part in parts) else max(1, count)
    for start in range(0, count, step):
        data = scratch("source", min(step, count - start) * item)
        move_bytes(os.preadv, source.file, data, source.offset + start * item)
        values = torch.frombuffer(data, dtype=TORCH[source.dtype])
        for part in parts:
            spot = Spot(part.spot.file, part.spot.offset + tensor_bytes(part.dtype, (start,)))
            progress(write(_treated(part, values), part.dtype, spot))


def _treated(part: Part, values: Tensor) -> Tensor:
    if part.is_copy:
        return values
    data = scratch("copy", tensor_bytes(part.dtype, tuple(values.shape)))
    copy = torch.frombuffer(data, dtype=TORCH[part.dtype]).copy_(values)
    return part.treat(copy.view(part.source.shape)) if part.treat else copy


def write(tensor: Tensor, dtype: str, spot: Spot) -> int:
    """Put a tensor into its place as ``dtype``; returns the number of bytes."""
    data = tensor.to(TORCH[dtype]).contiguous().reshape(-1).view(torch.uint8)
    return write_at(spot.file, data.numpy().data, spot.offset)
