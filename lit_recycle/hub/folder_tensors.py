"""Tensors of a Hugging Face folder by name, each read from its safetensors file when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lit_recycle.hub.finite import check_finite
from lit_recycle.hub.reader import FLOATS, HFFolder


class FolderTensors(Mapping[str, Tensor]):
    """The tensors of a folder by name, each read when it is asked for.

    Args:
        folder: The folder.
        dtype: Convert floating-point weights to ``float32``, ``float16`` or ``bfloat16``.

    Raises:
        ValueError: When one is read whose file is damaged, or whose values are not finite.
    """

    def __init__(self, folder: HFFolder, dtype: str | None = None) -> None:
        self.stored, self.dtype = folder.tensors, dtype
        self._open = lru_cache(maxsize=8)(open_tensors)  # a large model has hundreds of files

    def __getitem__(self, name: str) -> Tensor:
        stored = self.stored[name]
        tensor: Tensor = self._open(stored.path).get_tensor(name)
        check_finite(tensor.reshape(-1).view(torch.uint8).numpy().data, stored.dtype, stored.origin)
        if self.dtype is not None and stored.dtype in FLOATS.values():
            return tensor.to(getattr(torch, self.dtype))
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)


def open_tensors(path: Path) -> Any:
    """``safe_open``. Raises ``ValueError`` for a file that it does not take, which says what it has found."""
    try:
        return safe_open(path, "pt")
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file ({error}); fetch it again") from error
