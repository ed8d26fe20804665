"""Freed memory kept by the process while it computes, and not while weights are brought up."""

from __future__ import annotations

import lightning as L
from typing_extensions import override

from lit_recycle.training.allocator import keep_freed_memory


class KeepFreedMemory(L.Callback):
    """Keeps, on a CPU, what steps free; see :func:`lit_recycle.training.allocator.keep_freed_memory`.

    It begins when weights and optimizer state stand. To make these a block is allocated whole and sharded, again and
    again in other sizes, and kept memory would have holes of all of them.
    """

    @override
    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.strategy.root_device.type == "cpu":
            keep_freed_memory()

    on_validation_start = on_test_start = on_predict_start = on_train_start
