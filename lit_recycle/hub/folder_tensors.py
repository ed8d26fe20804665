"""Tensors of a Hugging Face folder by name, each read from its safetensors file when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache

from safetensors import safe_open
from torch import Tensor

from lit_recycle.hub.reader import HFFolder


class FolderTensors(Mapping[str, Tensor]):
    """The tensors of a folder by name, each read when it is asked for."""

    def __init__(self, folder: HFFolder) -> None:
        self.stored = folder.tensors
        self._open = lru_cache(maxsize=8)(lambda path: safe_open(path, "pt"))  # a large model has hundreds of files

    def __getitem__(self, name: str) -> Tensor:
        return self._open(self.stored[name].path).get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self.stored

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)
