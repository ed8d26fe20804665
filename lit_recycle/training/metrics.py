"""Metrics of a language model: loss, perplexity, bits per byte."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lit_recycle.data.validation import ValidationSet


class LanguageModelMetrics(Metric):
    """Mean next-token loss over all tokens of all processes."""

    full_state_update = False
    nll: Tensor
    tokens: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, mean_nll: Tensor, tokens: Tensor) -> None:
        """Add a batch: its mean negative log-likelihood per label, in nats, and its number of labels."""
        self.nll += mean_nll.double() * tokens
        self.tokens += tokens

    def compute(self) -> dict[str, Tensor]:
        """``loss`` in nats per token."""
        return {"loss": (self.nll / self.tokens).float()}


def validation_values(losses: Sequence[Tensor], sets: Sequence[ValidationSet]) -> dict[str, Tensor]:
    """What is logged of validation sets with these losses.

    ``loss/val`` with its perplexity and bits per byte is that of the split, of all sources by their number of tokens;
    where nothing was split off, that of all named sets.
    ``loss/val_<name>`` and ``loss/val_<name>_bits_per_byte`` are of the set of that name.
    """
    values: dict[str, Tensor] = {}
    nll, tokens, size = losses[0].new_zeros(()).double(), 0, 0.0
    nothing_split = not any(part.is_split for part in sets)
    for loss, part in zip(losses, sets, strict=True):
        if part.is_split or nothing_split:
            nll, tokens = nll + loss.double() * part.tokens, tokens + part.tokens
            size += part.bytes_per_token() * part.tokens
        if part.name:
            values[f"loss/val_{part.name}"] = loss
            values[f"loss/val_{part.name}_bits_per_byte"] = bits_per_byte(loss, part.bytes_per_token())
    mean = (nll / tokens).float() if len(sets) > 1 else losses[0]
    values |= {"loss/val": mean, "loss/val_perplexity": mean.exp()}
    return values | {"loss/val_bits_per_byte": bits_per_byte(mean, size / tokens)}


def bits_per_byte(loss: Tensor, bytes_per_token: float) -> Tensor:
    """Of a loss in nats per token."""
    return loss / (math.log(2) * bytes_per_token)
