"""Losses of validation sets by name, and what they say about forgetting."""

from __future__ import annotations

import email
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data import token_files
from lightning.pytorch.loggers import TensorBoardLogger
from monitored import Log
from runs import TEXT, fit

from lit_recycle.callbacks import ComputeMonitor, DataMonitor, ForgettingMonitor, TensorBoardLayout
from lit_recycle.data.config import Source
from lit_recycle.report.figures import plates
from lit_recycle.report.read import read_run

NAMES = ("json", "email", "ids")


def run(root: Path, **options: Any) -> Any:
    """Nine steps over two sources that grow before the fourth and seventh, validated after every second."""
    folder = root.parent
    files = sorted(Path(email.__file__).parent.glob("*.py"))
    ids = [np.array([*file.read_bytes(), token_files.EOS]) for file in files[:2]]
    sources = [Source("json", TEXT), Source("email", str(Path(email.__file__).parent))]
    data = {"sources": sources, "val": {"ids": str(token_files.megatron(folder, ids))}, "val_fraction": 0.1}
    logger = TensorBoardLogger(root, name="", version="", default_hp_metric=False)
    monitors = [TensorBoardLayout(), ComputeMonitor(), DataMonitor(), ForgettingMonitor()]
    trainer = {"val_check_interval": 2, "limit_val_batches": 3, "log_every_n_steps": 1}
    return fit(root, logger=logger, data=data, callbacks=monitors, **{**trainer, **options})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("forgetting") / "whole"
    trainer, module, _ = run(root)
    data = trainer.datamodule
    trainer.limit_val_batches = 1.0
    trainer.loggers = []
    per_loader = trainer.validate(module, data, verbose=False)
    by_hand(module, data, {tag: value for values in per_loader for tag, value in values.items()})
    return root


def by_hand(module: Any, data: Any, found: dict[str, float]) -> None:
    """Every sample of every set through the model, one by one."""
    losses, tokens, sizes = [], [], []
    for part in data.val_sets:
        total, order = 0.0, [sample for batch in data._val_loader(part) for sample in batch["input_ids"].tolist()]
        assert len(order) == len(part.samples)
        with torch.no_grad():
            for row in data._val_loader(part):
                logits, _ = module.model(row["input_ids"])
                nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), row["labels"].flatten(), reduction="sum")
                total += nll.item()
        losses.append(total / (len(order) * 32))
        tokens.append(len(part.samples.tokens))
        ids = part.samples.tokens.read(0, tokens[-1])
        text = len(data.tokenizer.decode(ids).encode())
        sizes.append(text)
        assert found[f"loss/val_{part.name}"] == pytest.approx(losses[-1], rel=1e-5)
        bits = losses[-1] / math.log(2) * tokens[-1] / text
        rel = 1e-5 if part.is_split else 1e-3  # of tokenised data, by the text of the first ids
        assert found[f"loss/val_{part.name}_bits_per_byte"] == pytest.approx(bits, rel=rel)
    split = (losses[0] * tokens[0] + losses[1] * tokens[1]) / (tokens[0] + tokens[1])
    assert found["loss/val"] == pytest.approx(split, rel=1e-5)
    assert found["loss/val_perplexity"] == pytest.approx(math.exp(split), rel=1e-5)
    bits = split / math.log(2) * sum(tokens[:2]) / sum(sizes[:2])
    assert found["loss/val_bits_per_byte"] == pytest.approx(bits, rel=1e-5)


def test_differences_are_to_the_start_and_to_before_the_growth(whole: Path) -> None:
    log = Log(whole)
    for name in (*NAMES, "split"):
        losses = dict(log.points("loss/val" if name == "split" else f"loss/val_{name}"))
        assert list(losses) == [1, 3, 5, 7]
        since_start = dict(log.points(f"forgetting/{name}_since_start"))
        since_growth = dict(log.points(f"forgetting/{name}_since_growth"))
        # Before training, the loss of a model that has just been drawn is about that of a guess.
        first = losses[1] - since_start[1]
        assert abs(first - math.log(257)) < 0.1
        for step, loss in losses.items():
            assert since_start[step] == pytest.approx(loss - first, abs=1e-6)
        # Grown before steps 3 and 6, and validated after steps 1, 3, 5 and 7; without a growth in between, and little
        # training, the loss before the growth is near the one measured last.
        before = {step: losses[step] - value for step, value in since_growth.items()}
        assert list(before) == [3, 5, 7] and before[3] == pytest.approx(before[5], abs=1e-6) != before[7]
        assert abs(before[3] - losses[1]) < 0.1 and abs(before[7] - losses[5]) < 0.1


@pytest.mark.parametrize("step", [2, 3, 5])
def test_resumed_it_remembers(whole: Path, tmp_path: Path, step: int) -> None:
    run(tmp_path / "again", ckpt_path=whole / "checkpoints" / f"step={step}.ckpt")
    for name in NAMES:
        for tag in (f"forgetting/{name}_since_start", f"forgetting/{name}_since_growth"):
            expected = [(at, value) for at, value in Log(whole).points(tag) if at >= step]
            assert Log(tmp_path / "again").points(tag) == expected and expected


def test_the_loss_before_a_growth_is_that_of_its_anchor(whole: Path) -> None:
    """A checkpoint of the step before is validated on by itself."""
    log = Log(whole)
    trainer, module, _ = run(
        whole.parent / "anchor", ckpt_path=whole / "checkpoints" / "step=6.ckpt", limit_val_batches=0
    )
    trainer.loggers, trainer.limit_val_batches = [], 3
    tested = trainer.validate(
        module, trainer.datamodule, verbose=False, ckpt_path=whole / "checkpoints" / "step=6.ckpt"
    )
    found = {tag: value for values in tested for tag, value in values.items()}
    for name in NAMES:
        expected = log.value(f"loss/val_{name}", 7) - found[f"loss/val_{name}"]
        assert log.value(f"forgetting/{name}_since_growth", 7) == pytest.approx(expected, abs=1e-5)


def test_the_report_shows_them(whole: Path) -> None:
    found = {plate.name: plate.figure for made in plates(read_run(whole)).values() for plate in made}
    curves = {
        name: {line.get_label() for line in figure.axes[0].lines if not str(line.get_label()).startswith("_")}
        for name, figure in found.items()
    }
    assert curves["validation_loss"] == curves["validation_bits"] == set(NAMES)
    assert curves["forgetting_start"] == curves["forgetting_growth"] == {*NAMES, "split"}
    assert curves["data_epochs"] == {"json", "email"}


@pytest.mark.parametrize("name", ["perplexity", "json", "a b"])
def test_names_that_would_be_mistaken(name: str, tmp_path: Path) -> None:
    from lit_recycle.data.module import TextData

    with pytest.raises(ValueError, match=r"data\.val"):
        TextData(sources=[Source("json", TEXT)], val={name: TEXT})
