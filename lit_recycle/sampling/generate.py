"""Sampling text from a trained model, with a cache of keys and values.

Axis suffixes: B rows, S sequence, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Model = Callable[[Tensor, list[Any]], tuple[Tensor, Any]]
"""Logits ``[B, S, V]`` of tokens ``[B, S]``, and something else. The list holds keys and values of what went before."""


def check_sampling(temperature: float, top_p: float, seed: int | None = None) -> None:
    """Raises ValueError for what no text can be sampled with."""
    if not 0 <= temperature < math.inf:
        raise ValueError(f"temperature must be a finite number and not negative, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    if seed is not None and seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")


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
    for token_B in _continued(model, [prompt], [seed], temperature, top_p, allowed):
        yield int(token_B[0])


@torch.no_grad()  # not inference_mode: what it gathers of sharded parameters could not be trained on
def generate_batch(
    model: Model,
    prompts: Sequence[list[int]],
    seeds: Sequence[int],
    max_new_tokens: int,
    ends: Callable[[list[int]], bool],
    *,
    temperature: float = 1.0,
    top_p: float = 1.0,
    allowed: int | None = None,
    device: torch.device | None = None,
) -> list[list[int]]:
    """Continuations of several prompts at once, each until it ends or has so many tokens.

    Args:
        model: As for `generate`.
        prompts: Token ids of each; at least one.
        seeds: Seed of each.
        max_new_tokens: The longest continuation.
        ends: Whether a continuation, with its last token, is at its end.
        temperature: As for `generate`.
        top_p: As for `generate`.
        allowed: As for `generate`.
        device: Where the tokens go; to the model's parameters when not given.
    """
    found: list[list[int]] = [[] for _ in prompts]
    open_rows = set(range(len(prompts)))
    first = min(map(len, prompts))
    steps = _continued(model, prompts, seeds, temperature, top_p, allowed, device)
    for position, token_B in enumerate(steps, first):
        for row, token in enumerate(token_B.tolist()):
            if row in open_rows and position >= len(prompts[row]):
                found[row].append(token)
                if ends(found[row]) or len(found[row]) == max_new_tokens:
                    open_rows.remove(row)
        if not open_rows:
            return found
    raise AssertionError


def _continued(
    model: Model,
    prompts: Sequence[list[int]],
    seeds: Sequence[int | None],
    temperature: float,
    top_p: float,
    allowed: int | None,
    device: torch.device | None = None,
) -> Iterator[Tensor]:
    """The tokens of all rows at each position from the end of the shortest prompt on.

    All rows begin at position 0, and one whose prompt is longer is given its tokens instead of sampled ones, so that
    nothing is padded and no mask is needed, whatever the model.
    """
    if not all(prompts):
        raise ValueError("the prompt is empty: give at least one token to continue")
    if device is None:
        assert isinstance(model, nn.Module)
        device = next(model.parameters()).device
    draws = [np.random.default_rng(seed) for seed in seeds]
    position = min(map(len, prompts))
    tokens_BS = torch.tensor([prompt[:position] for prompt in prompts], device=device)
    cache: list[Any] = []
    while True:
        logits_BV = model(tokens_BS, cache)[0][:, -1, :allowed].float()
        own_B = [position >= len(prompt) for prompt in prompts]  # a row's numbers do not depend on the others
        uniform_B = torch.tensor([draw.random() if own else 0.0 for draw, own in zip(draws, own_B, strict=True)])
        token_B = _sample(logits_BV, temperature, top_p, uniform_B.to(logits_BV))
        for row, prompt in enumerate(prompts):
            if not own_B[row]:
                token_B[row] = prompt[position]
        yield token_B
        tokens_BS = token_B.unsqueeze(1)
        position += 1


def _sample(logits_BV: Tensor, temperature: float, top_p: float, uniform_B: Tensor) -> Tensor:
    """A token of each row, by inversion of the distribution, so that one number in [0, 1) decides it on any device."""
    if temperature == 0:
        return logits_BV.argmax(-1)
    probabilities_BV, ids_BV = (logits_BV / temperature).softmax(-1).sort(descending=True)
    sums_BV = probabilities_BV.cumsum(-1)
    probabilities_BV[sums_BV - probabilities_BV >= top_p] = 0.0
    sums_BV = probabilities_BV.cumsum(-1)
    place_B1 = torch.searchsorted(sums_BV, (uniform_B * sums_BV[:, -1]).unsqueeze(1), right=True)
    last_B1 = (probabilities_BV > 0).sum(-1, keepdim=True) - 1
    return ids_BV.gather(1, place_B1.minimum(last_B1)).squeeze(1)
