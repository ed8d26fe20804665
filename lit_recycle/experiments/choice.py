"""An accuracy that is fair between models: which of four texts is the one that goes on?

The true continuation of a held-out context stands among three others of the same length, from elsewhere in the same
document, so that neither length nor topic tells. A model chooses the likeliest. Chance is a quarter.

Axis suffixes: N items, C choices, S tokens of context and continuation.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

CHOICES = 4


def choice_items(
    documents: Sequence[np.ndarray], items: int = 1000, context: int = 96, length: int = 32, seed: int = 0
) -> np.ndarray:
    """Token ids ``[N, C, S]``, the true continuation first; the same for every model of a tokenizer.

    Args:
        documents: Token ids of each held-out document. One that is too short for four places is not asked about.
        items: N; documents are drawn in proportion to their length.
        context: Tokens that are given.
        length: Tokens of each choice.
        seed: Of the draw.

    Raises:
        ValueError: If no document is long enough.
    """
    size = context + length
    long = [d for d in documents if len(d) >= size + 8 * CHOICES * length]
    if not long:
        raise ValueError(f"no held-out document has the {size + 8 * CHOICES * length} tokens that choices need")
    random = np.random.default_rng(seed)
    shares = np.array([len(d) for d in long], dtype=float)
    made = np.empty((items, CHOICES, size), dtype=np.int64)
    for item_CS in made:
        document = long[random.choice(len(long), p=shares / shares.sum())]
        start = random.integers(len(document) - size + 1)
        true = document[start + context : start + size]
        item_CS[:, :context] = document[start : start + context]
        item_CS[0, context:] = true
        for choice in range(1, CHOICES):
            item_CS[choice, context:] = _other(document, true, random)
    return made


def _other(document: np.ndarray, true: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Another place of the document, that does not say the same."""
    for _ in range(100):
        start = random.integers(len(document) - len(true) + 1)
        other = document[start : start + len(true)]
        if not np.array_equal(other, true):
            return other
    raise ValueError("a held-out document repeats one line over and over: leave it out")


@torch.no_grad()
def choice_accuracy(model: nn.Module, items_NCS: np.ndarray, context: int = 96, batch: int = 16) -> float:
    """Share of items whose true continuation has the highest likelihood; a tie counts as wrong."""
    right = 0
    for first in range(0, len(items_NCS), batch):
        ids = torch.from_numpy(items_NCS[first : first + batch])
        logits, _ = model(ids.flatten(0, 1)[:, :-1])
        nll = F.cross_entropy(logits.mT.float(), ids.flatten(0, 1)[:, 1:], reduction="none")
        nll_NC = nll[:, context - 1 :].sum(-1).view(-1, CHOICES)
        right += int((nll_NC[:, :1] < nll_NC[:, 1:]).all(-1).sum())
    return right / len(items_NCS)
