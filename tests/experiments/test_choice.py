"""The accuracy: items that are fair, and a model that knows answers them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lit_recycle.experiments.choice import CHOICES, choice_accuracy, choice_items

DOCUMENTS = [np.random.default_rng(n).integers(0, 256, size) for n, size in enumerate((100, 2000, 5000))]


def test_items_are_places_of_one_document_and_always_the_same() -> None:
    items_NCS = choice_items(DOCUMENTS, items=20, context=24, length=8)
    assert items_NCS.shape == (20, CHOICES, 32)
    assert (items_NCS == choice_items(DOCUMENTS, items=20, context=24, length=8)).all()
    texts = [document.astype(np.uint8).tobytes() for document in DOCUMENTS]
    for item_CS in items_NCS:
        whole = item_CS[0].astype(np.uint8).tobytes()
        (source,) = [text for text in texts if whole in text]
        assert (item_CS[:, :24] == item_CS[0, :24]).all()
        for choice in item_CS[1:]:
            assert choice[24:].astype(np.uint8).tobytes() in source and (choice != item_CS[0]).any()


def test_a_short_document_is_not_asked_about() -> None:
    with pytest.raises(ValueError, match="no held-out document"):
        choice_items(DOCUMENTS[:1], items=1)


class Knows(torch.nn.Module):
    """Gives the next token of one text a high logit: of the true one, or of another choice."""

    def __init__(self, items_NCS: np.ndarray, choice: int) -> None:
        super().__init__()
        self.texts = {tuple(item_CS[0, :24]): item_CS[choice] for item_CS in items_NCS}

    def forward(self, ids_BS: torch.Tensor) -> tuple[torch.Tensor, None]:
        logits_BSV = torch.zeros(*ids_BS.shape, 256)
        for b, ids_S in enumerate(ids_BS):
            text_S = torch.from_numpy(self.texts[tuple(ids_S[:24].tolist())])
            logits_BSV[b].scatter_(1, text_S[1:, None], 5.0)
        return logits_BSV, None


def test_accuracy_of_models_that_know_and_that_do_not() -> None:
    items_NCS = choice_items(DOCUMENTS, items=10, context=24, length=8)
    assert choice_accuracy(Knows(items_NCS, 0), items_NCS, context=24, batch=4) == 1.0
    assert choice_accuracy(Knows(items_NCS, 2), items_NCS, context=24, batch=4) == 0.0


def test_every_token_of_a_continuation_counts() -> None:
    items_NCS = np.repeat(choice_items(DOCUMENTS, items=10, context=24, length=8)[:, :1], CHOICES, axis=1)
    for place in (24, 31):
        changed_NCS = items_NCS.copy()
        changed_NCS[:, 1:, place] = (changed_NCS[:, 1:, place] + 1) % 256
        assert choice_accuracy(Knows(changed_NCS, 0), changed_NCS, context=24) == 1.0
    assert choice_accuracy(Knows(items_NCS, 0), items_NCS, context=24) == 0.0, "a tie is no right answer"
