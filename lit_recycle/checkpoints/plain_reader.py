"""Reader of sharded checkpoints that unpickles nothing but the classes of torch's index."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata

INDEX = ".metadata"
"""Where ``torch.distributed.checkpoint`` says which tensor lies where."""
METADATA = "meta.pt"
"""The file of a sharded checkpoint that holds everything but the tensors, and checksums of all others; written last."""


class PlainReader(dcp.FileSystemReader):
    """Reads a folder's index with an unpickler that knows torch's index classes and nothing else.

    ``torch.distributed.checkpoint`` pickles its index; a plain ``pickle.load`` of it would run whatever it says.
    """

    _index: Metadata | None = None

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        if self._index is None:
            self._index = self._read_index()
        return self._index

    def _read_index(self) -> Metadata:
        path = Path(self.path) / INDEX
        try:
            metadata = _IndexUnpickler(io.BytesIO(path.read_bytes())).load()
        except _NotLoaded as error:
            raise ValueError(f"the .metadata of {self.path} names {error}, which no index needs: not loaded") from error
        except Exception as error:  # an unpickler that meets nonsense raises whatever comes along
            raise ValueError(
                f"{path} is no index of a checkpoint, or one that was cut off: use an older checkpoint ({error!r})"
            ) from error
        if not isinstance(metadata, Metadata):
            raise ValueError(
                f"{path} is no index of a checkpoint, it holds a {type(metadata).__name__}: use an older checkpoint"
            )
        if metadata.storage_meta is not None:
            metadata.storage_meta.load_id = self.load_id
        return metadata


class _NotLoaded(Exception):
    """The index names something that is no part of an index."""


class _IndexUnpickler(pickle.Unpickler):
    _ALLOWED: ClassVar = {
        "torch.distributed.checkpoint.metadata": {
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "_MEM_FORMAT_ENCODING",
        },
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
        "torch.serialization": {"_get_layout"},
        "torch": {"Size"},
        "pathlib": {"PosixPath", "WindowsPath"},
        "pathlib._local": {"PosixPath", "WindowsPath"},  # Python 3.13
    }

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or name in self._ALLOWED.get(module, ()):
            return super().find_class(module, name)
        raise _NotLoaded(f"{module}.{name}")


def reader_of(path: Path) -> PlainReader:
    """Raises ``ValueError`` for a folder that lacks an index, or what is written last."""
    if not (path / INDEX).exists() or not (path / METADATA).exists():
        raise ValueError(f"{path} is no sharded checkpoint, or one that was cut off in writing: use an older one")
    return PlainReader(path)
