"""The least LightningModule that `TextData` works with, which remembers what it was given."""

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor


class Counting(LightningModule):
    """Keeps the inputs of every training and validation batch, each as nested lists."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.samples_seen = self.pending = 0
        self.trained: list[list[list[int]]] = []
        self.validated: list[list[list[int]]] = []

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.trained.append(batch["input_ids"].tolist())
        self.pending += len(batch["input_ids"]) * self.trainer.world_size
        return self.weight * batch["labels"].float().mean()

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.samples_seen += self.pending
        self.pending = 0

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.validated.append(batch["input_ids"].tolist())

    test_step = validation_step

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> list[list[int]]:
        return batch["input_ids"].tolist()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["samples_seen"] = self.samples_seen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.samples_seen = checkpoint["samples_seen"]


def quiet_trainer(**options: Any) -> Trainer:
    """A trainer on one CPU that draws no bars and writes no logs."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return Trainer(**{"devices": 1, "enable_checkpointing": False, **quiet, **options})
