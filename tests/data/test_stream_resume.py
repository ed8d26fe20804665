"""A resumed run sees exactly the batches that the uninterrupted run sees, whatever Lightning does in between."""

from pathlib import Path
from typing import Any

import pytest
from data.counting import Counting, quiet_trainer
from data.several_processes import on_several_processes
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lit_recycle.data.module import TextData

PLAIN = {"max_steps": 8, "limit_val_batches": 0}
SETTINGS = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 2},
    "validation": {"limit_val_batches": 2, "val_check_interval": 3, "check_val_every_n_epoch": None},
    "validation and accumulation": {
        "limit_val_batches": 2,
        "val_check_interval": 4,
        "check_val_every_n_epoch": None,
        "accumulate_grad_batches": 2,
    },
    "Lightning epochs": {"limit_train_batches": 3, "limit_val_batches": 1},
    "Lightning epochs and accumulation": {"limit_train_batches": 4, "accumulate_grad_batches": 2},
}


def fit(books: Path, workers: int, ckpt_path: Path | None = None, **options: Any) -> Counting:
    model = Counting()
    data = TextData(str(books), seq_len=16, batch_size=3, num_workers=workers, cache_dir=str(books.parent / "cache"))
    quiet_trainer(**{**PLAIN, **options}).fit(model, data, ckpt_path=ckpt_path, weights_only=True)
    return model


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("setting", SETTINGS)
def test_resumed_equals_uninterrupted(books, tmp_path, setting, workers):
    options = SETTINGS[setting]
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(books, workers, enable_checkpointing=True, callbacks=[keep], **options)
    micro_steps = 8 * options.get("accumulate_grad_batches", 1)
    assert len(whole.trained) == micro_steps and whole.samples_seen == 3 * micro_steps
    assert len({str(batch) for batch in whole.trained}) == micro_steps
    for step in (1, 3, 4, 6):
        part = fit(books, workers, ckpt_path=tmp_path / f"step={step}.ckpt", **options)
        assert part.trained == whole.trained[micro_steps * step // 8 :], step
        assert part.samples_seen == whole.samples_seen


def test_a_checkpoint_of_the_end_of_validation(books, tmp_path):
    options = SETTINGS["validation"]
    keep = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1)
    whole = fit(books, 2, enable_checkpointing=True, callbacks=[keep], **options)
    part = fit(books, 2, ckpt_path=tmp_path / "step=6.ckpt", **options)
    assert part.trained == whole.trained[6:]
    assert whole.validated[:2] == whole.validated[2:4]


class SaveBeforeBatch(Callback):
    """Saves when a batch has been fetched and nothing was done with it, as before an event in a run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == 5 and not self.path.exists():
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("setting", ["plain", "accumulation", "Lightning epochs"])
def test_a_checkpoint_of_the_start_of_a_batch(books, tmp_path, setting):
    options = SETTINGS[setting]
    whole = fit(books, 0, callbacks=[SaveBeforeBatch(tmp_path / "start.ckpt")], **options)
    part = fit(books, 0, ckpt_path=tmp_path / "start.ckpt", **options)
    assert part.trained == whole.trained[5 * options.get("accumulate_grad_batches", 1) :]


def test_a_trainer_that_goes_on_goes_on_in_the_stream(books):
    model = Counting()
    data = TextData(str(books), seq_len=16, batch_size=3, cache_dir=str(books.parent / "cache"))
    for _ in range(2):
        quiet_trainer(**{**PLAIN, "max_steps": 4}).fit(model, data)
    assert model.trained == fit(books, 0).trained


TWO_VALIDATE = {"max_steps": 5, "val_check_interval": 5, "check_val_every_n_epoch": None}


def test_two_processes_see_what_one_sees_and_can_take_over(books, tmp_path):
    """Two gloo processes of batch 3 resume a run of one process of batch 6, and see each of its batches in halves."""
    data = TextData(str(books), seq_len=16, batch_size=6, cache_dir=str(tmp_path / "cache"))
    keep = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    whole = Counting()
    quiet_trainer(enable_checkpointing=True, callbacks=[keep], **TWO_VALIDATE).fit(whole, data)
    options = {"path": str(books), "seq_len": 16, "batch_size": 3, "cache_dir": str(tmp_path / "another-cache")}
    ranks = on_several_processes(2, tmp_path, tmp_path / "step=2.ckpt", options, TWO_VALIDATE)
    assert [one + other for one, other in zip(*(rank["trained"] for rank in ranks), strict=True)] == whole.trained[2:]
    assert [rank["samples_seen"] for rank in ranks] == [30, 30]
    assert len(ranks[0]["validated"]) == len(ranks[1]["validated"])
    seen, expected = (
        [sample for batch in batches for sample in batch]
        for batches in (ranks[0]["validated"] + ranks[1]["validated"], whole.validated)
    )
    assert sorted(seen) == sorted(expected)
