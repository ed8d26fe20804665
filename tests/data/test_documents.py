"""Batches whose documents are kept apart."""

import numpy as np
import pytest
import torch
from data.counting import Counting, quiet_trainer
from data.token_files import EOS, flat, some_documents
from lightning.pytorch.callbacks import Callback

from lit_recycle.data.batches import LABEL_COUNT, batch_of
from lit_recycle.data.config import DataStage, Source, Until
from lit_recycle.data.module import TextData


def test_documents_are_numbered_and_labels_over_a_border_left_out():
    rows = [np.array([5, 6, 9, 7, 9, 9, 8]), np.array([9, 1, 2, 3, 4, 5, 9])]
    batch = batch_of(rows, eos_id=9)
    assert batch["input_ids"].tolist() == [[5, 6, 9, 7, 9, 9], [9, 1, 2, 3, 4, 5]]
    assert batch["documents"].tolist() == [[0, 0, 0, 1, 1, 2], [0, 1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[6, 9, -100, 9, -100, -100], [-100, 2, 3, 4, 5, 9]]
    assert set(batch_of(rows)) == {"input_ids", "labels"} and (batch_of(rows)["labels"] >= 0).all()


def data_of(books, **options) -> TextData:
    cache = str(books.parent / "cache")
    return TextData(**{"path": str(books), "seq_len": 16, "batch_size": 3, "cache_dir": cache, **options})


class Counted(Counting):
    """Keeps how many labels each batch has, and how many it says that its step has."""

    def __init__(self) -> None:
        super().__init__()
        self.counts, self.growth = [], []

    def training_step(self, batch, batch_idx):
        self.counts.append((int((batch["labels"] != -100).sum()), int(batch[LABEL_COUNT])))
        assert (batch["documents"].diff(dim=1) == (batch["input_ids"][:, :-1] == EOS)).all()
        return super().training_step(batch, batch_idx)


class Grow(Callback):
    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == 2 and not pl_module.growth:
            pl_module.growth.append(2)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("grows", [False, True])
def test_every_batch_knows_the_labels_of_its_optimizer_step(books, tmp_path, workers, accumulate, grows):
    options = {"documents": "mask", "num_workers": workers}
    if grows:
        lengths = np.random.default_rng(0).integers(1, 9, 400)
        documents = [np.array([*range(65, 72), EOS][-length:]) for length in lengths]
        other = str(flat(tmp_path / "ids.bin", documents))
        stages = [DataStage({"books": 1}, Until(growth=1)), DataStage({"other": 1})]
        options |= {"path": None, "sources": [Source("books", str(books)), Source("other", other)], "stages": stages}
    model = Counted()
    trainer = {"max_steps": 5, "accumulate_grad_batches": accumulate, "limit_val_batches": 0}
    quiet_trainer(callbacks=[Grow()] if grows else [], **trainer).fit(model, data_of(books, **options))
    assert len(model.counts) == 5 * accumulate
    for first in range(0, len(model.counts), accumulate):
        step = model.counts[first : first + accumulate]
        assert [said for _, said in step] == [sum(kept for kept, _ in step)] * accumulate
    assert len(set(model.counts)) > 1 or not (grows or accumulate > 1)


def test_validation_keeps_documents_apart_too(books):
    data = data_of(books, documents="mask", val_fraction=0.3)
    data.prepare_data()
    data.setup()
    batches = list(data.val_dataloader())
    assert any((batch["labels"] == -100).any() for batch in batches)
    for batch in batches:
        assert torch.equal(batch["labels"] == -100, batch["input_ids"] == EOS)


def test_data_without_ends_of_documents_cannot_be_kept_apart(books, tmp_path):
    endless = str(flat(tmp_path / "ids.bin", [ids[:-1] for ids in some_documents()]))
    data_of(books, path=endless).prepare_data()
    with pytest.raises(ValueError, match=r"ids\.bin: the end-of-document id 256 is nowhere to be seen.*documents pack"):
        data_of(books, path=endless, documents="mask").prepare_data()


def test_there_are_two_ways(books):
    with pytest.raises(ValueError, match="documents must be pack or mask, got 'packed'"):
        data_of(books, documents="packed")
