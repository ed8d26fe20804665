"""Lightning's checkpoints, written atomically, at once or in the background, and read whether one file or sharded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch.distributed as dist
from lightning.fabric.plugins.io import TorchCheckpointIO
from torch import Tensor
from typing_extensions import override

from lit_recycle.addresses import place_of
from lit_recycle.checkpoints import processes, sharded
from lit_recycle.checkpoints.atomic import save
from lit_recycle.checkpoints.background import Background
from lit_recycle.checkpoints.native import load_whole_checkpoint
from lit_recycle.checkpoints.remote import remove, save_remote, save_sharded_remote

if TYPE_CHECKING:
    from lightning import Trainer
    from lightning.pytorch.strategies import Strategy

T = TypeVar("T")

PATIENCE = timedelta(hours=1)
"""How long the threads that write the shards of a checkpoint wait for each other; no training step waits for them."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, flushes it to disk, and renames it; nothing is buffered in memory.

    Reads without unpickling anything, on one device and under DDP, sharded checkpoints too.
    """

    def __init__(self) -> None:
        self.background: Background | None = None
        """Where checkpoints are written while training goes on; None to write them at once."""
        self._group: dist.ProcessGroup | None = None

    @override
    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        assert storage_options is None
        place = place_of(path)
        write = partial(save, path=place) if isinstance(place, Path) else partial(save_remote, address=place)
        self._write(checkpoint, write, needs_peers=False)

    def save_shards(self, tensors: Mapping[str, Tensor], rest: dict[str, Any], path: str | Path) -> None:
        """See :func:`lit_recycle.checkpoints.sharded.save_sharded`; on all processes at once."""
        place, group = place_of(path), self._background_group() if self.background else None

        def write(parts: tuple[dict[str, Tensor], dict[str, Any]]) -> None:
            if isinstance(place, Path):
                sharded.save_sharded(*parts, place, group)
            else:
                save_sharded_remote(*parts, place, group)

        self._write((dict(tensors), rest), write, needs_peers=processes.is_distributed())

    def _write(self, checkpoint: T, write: Callable[[T], None], needs_peers: bool) -> None:
        if self.background is None:
            write(checkpoint)
        else:
            self.background.save(checkpoint, write, needs_peers)

    def _background_group(self) -> dist.ProcessGroup | None:
        """The processes once more: what threads say to each other must not come between what training says."""
        if self._group is None and processes.is_distributed():
            self._group = dist.new_group(backend="gloo", timeout=PATIENCE, group_desc=sharded.BACKGROUND)
        return self._group

    @override
    def load_checkpoint(self, path: str | Path, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return load_whole_checkpoint(path)

    @override
    def remove_checkpoint(self, path: str | Path) -> None:
        """When what replaces it is whole."""
        place = place_of(path)
        act = partial(super().remove_checkpoint, path) if isinstance(place, Path) else partial(remove, place)
        if self.background is None:
            act()
        else:
            self.background.afterwards(act)

    @override
    def teardown(self) -> None:
        """The end of a run, however it ends."""
        if self.background is not None:
            background, self.background, self._group = self.background, None, None
            background.wait()


def own_io(strategy: Strategy) -> AtomicCheckpointIO:
    """The checkpoint IO of a strategy, which takes the place of Lightning's plain one.

    Raises:
        ValueError: The user has chosen another one.
    """
    if type(strategy.checkpoint_io) is TorchCheckpointIO:
        strategy.checkpoint_io = AtomicCheckpointIO()
    if not isinstance(strategy.checkpoint_io, AtomicCheckpointIO):
        raise ValueError(
            f"trainer.plugins has {type(strategy.checkpoint_io).__name__}, and checkpoints are written by this "
            "project's AtomicCheckpointIO: leave it out; lit_recycle.callbacks.AsyncSave saves while training goes on"
        )
    return strategy.checkpoint_io


def finish_saves(trainer: Trainer) -> None:
    """Wait for what is being saved in the background, if anything is; raises what has gone wrong there."""
    io = trainer.strategy.checkpoint_io
    if isinstance(io, AtomicCheckpointIO) and io.background is not None:
        io.background.wait()
