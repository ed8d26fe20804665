"""What a run trains on, row by row, against the stream of its samples."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch

from lit_recycle.data.module import TextData


class Rows(L.Callback):
    """The rows that each optimizer step trains on, in this process."""

    def __init__(self) -> None:
        self.rows: dict[int, list[list[int]]] = {}
        self.batches: list[dict[str, torch.Tensor]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rows.setdefault(trainer.global_step, []).extend(batch["input_ids"].tolist())
        self.batches.append(batch)


def stream(data: TextData, tokens: int) -> list[int]:
    """The first tokens of the run's samples at full length, one after the other."""
    order, ids = data.stream.order(), []
    for position in range(-(-tokens // data.seq_len)):
        (source,), (sample,) = (part.tolist() for part in order.at(np.array([position])))
        ids += data._train[source].ids(sample)[:-1].tolist()
    return [~i if i < 0 else i for i in ids]
