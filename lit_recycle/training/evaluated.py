"""Validation, test and prediction of a language model that can change its shape during a run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from typing_extensions import override

from lit_recycle.data.batches import Batch
from lit_recycle.data.validation import ValidationSet
from lit_recycle.growth.shape import Shape
from lit_recycle.model.experts import Routing
from lit_recycle.model.kernels.loss import LEFT_OUT
from lit_recycle.model.loss import label_losses
from lit_recycle.training.growable import GrowableModule
from lit_recycle.training.metrics import LanguageModelMetrics, validation_values


class EvaluatedModule(GrowableModule):
    """A model of which losses are measured on held-out text: of each validation set, over all processes."""

    def __init__(self, shape: Shape, growth: list[dict[str, Any]] | None = None) -> None:
        super().__init__(shape, growth)
        self.val_metrics = LanguageModelMetrics()
        self.further_metrics: list[LanguageModelMetrics] = []
        self.val_sets: list[ValidationSet] = []

    @abstractmethod
    def next_token_loss(self, batch: Batch) -> tuple[Tensor, Routing | None]:
        """Mean cross-entropy in nats per label, and how the tokens were routed."""

    @override
    def on_validation_epoch_start(self) -> None:
        self.val_metrics.reset()
        sets = getattr(getattr(self.trainer, "datamodule", None), "val_sets", None) or [ValidationSet()]
        # Of the first set there is always a metric; the others are no submodules, which strategies would move and wrap.
        self.further_metrics = [LanguageModelMetrics().to(self.device) for _ in sets[1:]]
        self.val_sets = sets

    @override
    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        ce, _ = self.next_token_loss(batch)
        labels = (batch["labels"] != LEFT_OUT).sum()
        metric = self.further_metrics[dataloader_idx - 1] if dataloader_idx else self.val_metrics
        metric.update(ce, labels)
        return {"loss": ce, "weight": labels}

    def validation_values(self) -> dict[str, Tensor]:
        """What was measured since the validation began, by tag; over all processes."""
        losses = []
        for metric in (self.val_metrics, *self.further_metrics):
            losses.append(metric.compute()["loss"])
            metric.reset()
        return validation_values(losses, self.val_sets)

    @override
    def on_validation_epoch_end(self) -> None:
        values = self.validation_values()
        self.log("loss/val", values.pop("loss/val"), prog_bar=True, sync_dist=True)
        self.log_dict(values, sync_dist=True)

    on_test_epoch_start = on_validation_epoch_start
    test_step = validation_step
    on_test_epoch_end = on_validation_epoch_end

    @override
    def predict_step(self, batch: Mapping[str, Any], batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """``losses``, the negative log-likelihood of each label, ``[B, S]``, in nats, zero where it is left out; and
        whether it is the ``likeliest`` token. Of a batch without labels the ``logits`` instead, and the ``cache`` of
        keys and values that it came with: some strategies hand over a copy of it.
        """
        assert self.model is not None
        if "labels" not in batch:
            cache = batch.get("cache")
            return {"logits": self.model(batch["input_ids"], cache)[0], "cache": cache}
        logits, _ = self.model(batch["input_ids"], documents_BS=batch.get("documents"))
        losses, likeliest = label_losses(logits, batch["labels"])
        return {"losses": losses, "likeliest": likeliest}
