"""Per-token losses, as `lit-recycle predict` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch import Tensor
from typing_extensions import override

from lit_recycle.checkpoints.atomic import beside
from lit_recycle.data.batches import Batch
from lit_recycle.training.growable import GrowableModule


class TokenLossWriter(L.Callback):
    """Writes what a model predicts of the validation text: an ``.npz`` of three arrays of shape [samples, seq_len].

    ``input_ids`` and ``labels`` are token ids, ``losses`` the negative log-likelihood of each label in nats, float32.
    With several processes each writes a file of its own.

    Args:
        dirpath: Folder of the files; ``predict`` in the trainer's root folder when not given.

    Example::

        >>> import numpy as np
        >>> found = np.load("runs/quickstart/predict/token_losses.npz")  # doctest: +SKIP
        >>> found["losses"].mean()  # doctest: +SKIP
    """

    def __init__(self, dirpath: str | None = None) -> None:
        self.dirpath = dirpath
        self._found: dict[str, list[np.ndarray]] = {}

    @override
    def on_predict_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: GrowableModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        def add(name: str, values: Tensor, dtype: str) -> None:
            self._found.setdefault(name, []).append(values.cpu().numpy().astype(dtype))

        add("input_ids", batch["input_ids"], "uint32")
        add("labels", batch["labels"], "int32")
        add("losses", outputs["losses"], "float32")

    @override
    def on_predict_end(self, trainer: L.Trainer, pl_module: GrowableModule) -> None:
        if not self._found:
            return
        rank = f"-rank={trainer.global_rank}" if trainer.world_size > 1 else ""
        folder = Path(self.dirpath) if self.dirpath else Path(trainer.default_root_dir) / "predict"
        path = folder / f"token_losses{rank}.npz"
        arrays = {name: np.concatenate(parts) for name, parts in self._found.items()}
        self._found = {}
        with beside(path) as part, part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        samples, length = arrays["losses"].shape
        print(f"wrote {path}: losses of {samples:,} × {length:,} tokens, mean {arrays['losses'].mean():.4f} nats")
