"""Data sets with splits of their own: told where they are read as one corpus, and kept apart on request."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from data.token_files import flat, some_documents
from runs import fit

from lit_recycle.data.config import Source
from lit_recycle.data.opened import Preparation
from lit_recycle.data.tokenizer import ByteTokenizer
from lit_recycle.training.metrics import LanguageModelMetrics

DOCUMENTS = some_documents()


def told(caplog: pytest.LogCaptureFixture, path: Path | list[str], cache: Path, **options: str) -> str:
    caplog.clear()
    source = Source("it", path if isinstance(path, list) else str(path), **options)
    Preparation(ByteTokenizer(), str(cache), "text", 0.1).prepare(source)
    return " ".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("trained", "kept"),
    [
        ("train.bin", "val.bin"),
        ("fineweb_train_000001.bin", "fineweb_val_000000.bin"),
        ("train/00.bin", "validation/00.bin"),
        ("wiki-train.npy", "wiki-test.npy"),
    ],
)
def test_of_ids(tmp_path: Path, caplog: pytest.LogCaptureFixture, trained: str, kept: str) -> None:
    folder = tmp_path / "test"  # what lies above says nothing
    for name in (trained, kept):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        flat(folder / name, DOCUMENTS)
    says = f"{folder} is read as one corpus, with {trained} and {kept}: to keep a split from training"
    assert says in told(caplog, folder, tmp_path / "cache")
    assert f"with {trained} and {kept}" in told(caplog, folder / f"**/*.{trained[-3:]}", tmp_path / "cache")
    assert "corpus" not in told(caplog, [str(folder / trained), str(folder / kept)], tmp_path / "cache")
    assert "corpus" not in told(caplog, folder / trained, tmp_path / "cache")


@pytest.mark.parametrize(
    ("first", "second"), [("train.jsonl.gz", "dev.jsonl.gz"), ("wiki.train.txt", "wiki.valid.txt")]
)
def test_of_text(tmp_path: Path, caplog: pytest.LogCaptureFixture, first: str, second: str) -> None:
    for name in (first, second):
        line = json.dumps({"text": f"{name} " * 50}).encode() * 2
        (tmp_path / name).write_bytes(gzip.compress(line.replace(b"}{", b"}\n{")) if name.endswith("gz") else line)
    assert f"with {first} and {second}" in told(caplog, tmp_path, tmp_path / "cache")
    if "jsonl" in first:
        assert f"with {first} and {second}" in told(caplog, tmp_path, tmp_path / "cache", template="{text}")


@pytest.mark.parametrize("names", [("train.py", "test.py", "val.md"), ("trainer.txt", "value.txt", "test.txt"),
                                   ("train_test.txt", "train.txt")])  # fmt: skip
def test_other_files_may_be_called_anything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, names: tuple[str, ...]
) -> None:
    for name in names:
        (tmp_path / name).write_text("text " * 100)
    assert "corpus" not in told(caplog, tmp_path, tmp_path / "cache")


@pytest.mark.parametrize("nothing", [0, 0.0])
def test_with_nothing_split_off_all_is_trained_on_and_the_loss_is_that_of_the_named_sets(
    tmp_path: Path, nothing: float
) -> None:
    paths = {name: str(tmp_path / f"{name}.bin") for name in ("train", "one", "two")}
    for path, documents in zip(paths.values(), (DOCUMENTS, DOCUMENTS[:40], DOCUMENTS[40:50]), strict=True):
        flat(Path(path), documents)
    data = {"path": paths.pop("train"), "val": paths, "val_fraction": nothing}
    validated = {"limit_val_batches": 1.0, "val_check_interval": 2}
    trainer, module, _ = fit(tmp_path / "run", steps=2, events=[], data=data, **validated)
    (source,), sets = trainer.datamodule.opened, trainer.datamodule.val_sets
    assert len(source.train.tokens) == sum(map(len, DOCUMENTS)) and [part.name for part in sets] == ["one", "two"]
    assert repr(trainer.datamodule.val_fraction) == "0.0", "the key of a cache is made of it"
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
    with pytest.raises(ValueError, match=r"data\.val_fraction 0 keeps nothing for validation, and data\.val names"):
        fit(tmp_path / "run", **run, limit_val_batches=1.0)
    trainer, *_ = fit(tmp_path / "run", **run)
    assert trainer.datamodule.val_sets == []
    fit(tmp_path / "run", **run, fast_dev_run=True)
