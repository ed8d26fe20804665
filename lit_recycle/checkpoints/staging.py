"""Staging: a copy of a checkpoint in CPU memory, to be written while the original changes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

T = TypeVar("T")


@torch.no_grad()
def staged(checkpoint: T) -> T:
    """A copy of dictionaries and lists of tensors and plain values; tensors of it lie in CPU memory, pinned for a GPU.

    Storages are copied as a whole, and one that several tensors share is shared by their copies: what ``torch.save``
    writes of the copy is, on a CPU, what it writes of the original. Sharded tensors keep their mesh. (The stagers in
    ``torch.distributed.checkpoint`` know storages by Python objects that come and go, and fail under FSDP2.)
    """
    storages: dict[int, Tensor] = {}
    memo: dict[int, Any] = {id(tensor): _copy(tensor, storages) for tensor in _tensors(checkpoint)}
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # copies into pinned memory are under way
    return copy.deepcopy(checkpoint, memo)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors(inner)


def _copy(tensor: Tensor, storages: dict[int, Tensor]) -> Tensor:
    if is_traceable_wrapper_subclass(tensor):  # a DTensor: of public ways to make one, none leaves it on the CPU
        names, context = tensor.__tensor_flatten__()
        parts = {name: getattr(tensor, name) for name in names}  # its mesh may be among them
        inner = {name: _copy(part, storages) if isinstance(part, Tensor) else part for name, part in parts.items()}
        whole: Tensor = tensor.__tensor_unflatten__(inner, context, tensor.size(), tensor.stride())
        return whole
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        return tensor.to("cpu", copy=True)
    if storage.data_ptr() not in storages:
        original = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)  # type: ignore[call-overload]
        pinned = tensor.device.type == "cuda"
        target = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=pinned)
        storages[storage.data_ptr()] = target.copy_(original, non_blocking=pinned)
    copied = storages[storage.data_ptr()].untyped_storage()
    return torch.empty(0, dtype=tensor.dtype).set_(copied, tensor.storage_offset(), tensor.size(), tensor.stride())
