"""What a language model is judged by."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric


class LanguageModelMetrics(Metric):
    """Mean next-token loss, perplexity and bits per byte, over all tokens of all processes.

    Args:
        bytes_per_token: Mean length of a token in bytes of text, in the data that is evaluated.
    """

    full_state_update = False
    nll: Tensor
    tokens: Tensor

    def __init__(self, bytes_per_token: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bytes_per_token = bytes_per_token
        self.add_state("nll", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("tokens", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, mean_nll: Tensor, tokens: int) -> None:
        """Add a batch: its mean negative log-likelihood per token, in nats, and its number of tokens."""
        self.nll += mean_nll.double() * tokens
        self.tokens += tokens

    def compute(self) -> dict[str, Tensor]:
        """``loss`` in nats per token, ``perplexity`` = exp(loss), ``bits_per_byte`` = loss / ln 2 / bytes per token."""
        loss = self.nll / self.tokens
        bits = loss / (math.log(2) * self.bytes_per_token)
        return {"loss": loss.float(), "perplexity": loss.exp().float(), "bits_per_byte": bits.float()}
