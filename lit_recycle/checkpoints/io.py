"""Lightning's checkpoints, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.fabric.plugins.io import TorchCheckpointIO
from typing_extensions import override

from lit_recycle.checkpoints.atomic import save


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to disk, and renames it. Nothing is buffered in memory."""

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        assert storage_options is None
        save(checkpoint, Path(path))
