"""Data sets with splits of their own: not read as one corpus, and validated on what they keep for that."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from data.token_files import flat, some_documents
from runs import fit

from lit_recycle.data.formats.find import find_tokens
from lit_recycle.data.sources import find_files
from lit_recycle.data.splits import refuse_splits
from lit_recycle.training.metrics import LanguageModelMetrics

DOCUMENTS = some_documents()


@pytest.mark.parametrize(
    ("trained", "kept"),
    [
        ("train.bin", "val.bin"),
        ("fineweb_train_000001.bin", "fineweb_val_000000.bin"),
        ("train/00.bin", "validation/00.bin"),
        ("wiki-train.npy", "wiki-test.npy"),
    ],
)
def test_a_folder_of_ids_with_splits_is_refused_and_a_list_is_taken(tmp_path: Path, trained: str, kept: str) -> None:
    for name in (trained, kept):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        flat(tmp_path / name, DOCUMENTS)
    says = f"{tmp_path} holds the splits {trained} and {kept}, and one would be trained on what it is measured on: set"
    with pytest.raises(ValueError, match=re.escape(says)):
        find_tokens(str(tmp_path), "uint16", "text")
    both = find_tokens([str(tmp_path / trained), str(tmp_path / kept)], "uint16", "text")
    assert both is not None and both.tokens == 2 * sum(map(len, DOCUMENTS))


def test_a_folder_of_records_with_splits_is_refused(tmp_path: Path) -> None:
    for name in ("train.jsonl.gz", "dev.jsonl.gz"):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match=re.escape("holds the splits train.jsonl.gz and dev.jsonl.gz")):
        find_files(str(tmp_path))


def test_source_code_may_be_called_anything(tmp_path: Path) -> None:
    for name in ("train.py", "test.py", "val.md", "train.jsonl"):
        (tmp_path / name).write_text("{}")
    assert len(find_files(str(tmp_path))) == 4
    refuse_splits(tmp_path, [tmp_path / "trainer.bin", tmp_path / "value.bin", tmp_path / "test.bin"])


def test_with_nothing_split_off_all_is_trained_on_and_the_loss_is_that_of_the_named_sets(tmp_path: Path) -> None:
    paths = {name: str(tmp_path / f"{name}.bin") for name in ("train", "one", "two")}
    for path, documents in zip(paths.values(), (DOCUMENTS, DOCUMENTS[:40], DOCUMENTS[40:50]), strict=True):
        flat(Path(path), documents)
    data = {"path": paths.pop("train"), "val": paths, "val_fraction": 0}
    trainer, module, _ = fit(
        tmp_path / "run", steps=2, events=[], data=data, limit_val_batches=1.0, val_check_interval=2
    )
    (source,), sets = trainer.datamodule.opened, trainer.datamodule.val_sets
    assert len(source.train.tokens) == sum(map(len, DOCUMENTS)) and [part.name for part in sets] == ["one", "two"]
    nll = tokens = 0.0
    for part in sets:
        loss = trainer.callback_metrics[f"loss/val_{part.name}"]
        nll, tokens = nll + float(loss) * part.tokens, tokens + part.tokens
    assert float(trainer.callback_metrics["loss/val"]) == pytest.approx(nll / tokens, rel=1e-6)
    metric = LanguageModelMetrics()
    with torch.no_grad():
        for batch in trainer.datamodule.val_dataloader()[1]:
            metric.update(module.next_token_loss(batch)[0], torch.tensor(batch["labels"].numel()))
    assert float(trainer.callback_metrics["loss/val_two"]) == pytest.approx(float(metric.compute()["loss"]), rel=1e-5)


def test_with_nothing_to_validate_on_a_run_is_refused_unless_it_validates_nothing(tmp_path: Path) -> None:
    flat(tmp_path / "ids.bin", DOCUMENTS)
    run = {"steps": 1, "events": [], "data": {"path": str(tmp_path / "ids.bin"), "val_fraction": 0}}
    with pytest.raises(ValueError, match=r"data.val_fraction 0 keeps nothing for validation: name validation sets in"):
        fit(tmp_path / "run", **run, limit_val_batches=1.0)
    trainer, *_ = fit(tmp_path / "run", **run)
    assert trainer.datamodule.val_sets == []
