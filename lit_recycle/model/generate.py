"""Sampling text from a trained model, one token at a time, with a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@torch.inference_mode()
def generate(
    model: nn.Module,
    prompt: list[int],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int | None = None,
    allowed: int | None = None,
) -> Iterator[int]:
    """Endless continuation of a prompt, token by token.

    Args:
        model: The model, in evaluation mode: ours, or one of transformers in our interface.
        prompt: Token ids; at least one.
        temperature: Divides the logits; 0 always takes the likeliest token.
        top_p: Sample among the likeliest tokens that together have this probability (Holtzman et al. 2020).
        seed: Seed of the sampling.
        allowed: Only ids below this are sampled: the size of the tokenizer's vocabulary, where the model's is padded.
    """
    if not prompt:
        raise ValueError("the prompt is empty: give at least one token to continue")
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed) if seed is not None else None
    cache: list[Any] = []
    tokens = torch.tensor([prompt], device=device)
    while True:
        logits, _ = model(tokens, cache)
        token = _sample(logits[0, -1, :allowed].float().cpu(), temperature, top_p, generator)
        yield token
        tokens = torch.tensor([[token]], device=device)


def _sample(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> int:
    if temperature == 0:
        return int(logits_V.argmax())
    probabilities, ids = (logits_V / temperature).softmax(-1).sort(descending=True)
    before = probabilities.cumsum(-1) - probabilities
    probabilities[before >= top_p] = 0.0
    return int(ids[torch.multinomial(probabilities, 1, generator=generator)])
