"""Lightning's checkpoints, written atomically, and read whether they are one file or sharded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from typing_extensions import override

from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.native import load_whole_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to disk, and renames it; nothing is buffered in memory.

    Reads without unpickling anything, on one device and under DDP, sharded checkpoints too.
    """

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        assert storage_options is None
        save(checkpoint, Path(path))

    @override
    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return load_whole_checkpoint(Path(path))
