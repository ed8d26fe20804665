"""Evaluation of a checkpoint: what it was trained on, by its own tokenizer, and losses that are kept."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from data.tiny_bpe import bpe_text
from processes import TEXT, config, start

LIMITS = ("--trainer.limit_val_batches", 2, "--trainer.limit_test_batches", 2, "--trainer.limit_predict_batches", 2)
PLAIN = ("--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false", *LIMITS)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps on a tokenizer and a text of its own, both of which are gone when it is evaluated."""
    root = tmp_path_factory.mktemp("evaluate")
    (root / "tokenizer.json").write_text(bpe_text("<|endoftext|>"))
    changes = {"data__tokenizer": str(root / "tokenizer.json"), "model__config__vocab_size": 300}
    path = config(root / "run", trainer__max_steps=2, trainer__callbacks=[], trainer__val_check_interval=2, **changes)
    trained = start("fit", "--config", path, "--trainer.limit_val_batches", 2, log=root / "log")
    assert trained.wait() == [0], trained.output
    (root / "tokenizer.json").rename(root / "moved.json")
    return root


def checkpoint(run: Path) -> Path:
    (found,) = (run / "run").rglob("*.ckpt")
    return found


@pytest.mark.parametrize("command", ["validate", "test"])
def test_data_and_tokenizer_are_the_checkpoints(run: Path, tmp_path: Path, command: str) -> None:
    log = tmp_path / "log"
    found = start(command, "--ckpt_path", checkpoint(run), *PLAIN, log=log)
    assert found.wait() == [0], found.output
    losses = [float(m) for m in re.findall(r"loss/val\s*│\s*([\d.]+)", found.output)]
    told = start(
        command, "--config", run / "run.yaml", "--data.tokenizer", run / "moved.json", "--ckpt_path", checkpoint(run),
        *LIMITS, log=tmp_path / "told",
    )  # fmt: skip
    assert told.wait() == [0], told.output
    assert losses == [float(m) for m in re.findall(r"loss/val\s*│\s*([\d.]+)", told.output)] and len(losses) == 1


def test_what_is_given_counts(run: Path, tmp_path: Path) -> None:
    other = ("--data.path", f"{TEXT}/decoder.py", "--data.seq_len", 16, "--data.cache_dir", tmp_path / "cache")
    found = start("validate", "--ckpt_path", checkpoint(run), *PLAIN, *other, log=tmp_path / "log")
    assert found.wait() == [0], found.output
    assert list((tmp_path / "cache").glob("corpus-*"))


def test_a_run_that_split_nothing_off_is_measured_on_what_is_named(tmp_path: Path) -> None:
    """Not on other text that is given as data.path, nor on nothing at all."""
    data = {"data__val_fraction": 0, "data__val": {"held_out": f"{TEXT}/decoder.py"}}
    path = config(tmp_path / "run", trainer__max_steps=2, trainer__callbacks=[], **data)
    assert start("fit", "--config", path, log=tmp_path / "log").wait() == [0]
    evaluate = ("validate", "--ckpt_path", checkpoint(tmp_path), *PLAIN)
    found = start(*evaluate, log=tmp_path / "log")
    assert found.wait() == [0] and "loss/val_held_out" in found.output, found.output
    log = tmp_path / "log"
    last = start("validate", "--ckpt_path", "last", *PLAIN, "--trainer.default_root_dir", tmp_path / "run", log=log)
    assert last.wait() == [2] and "needs the run's configuration" in last.errors[0], last.output
    for options, says in (
        (("--data.path", f"{TEXT}/encoder.py"), "nothing of data.path or data.sources would be measured"),
        (("--data.val", "null"), "data.val_fraction 0 keeps nothing for validation, and data.val names nothing"),
    ):
        refused = start(*evaluate, *options, log=tmp_path / "log")
        assert refused.wait() == [2] and says in refused.errors[0], refused.output
    other = ("--data.path", TEXT, "--data.val_fraction", 0.5)
    found = start(*evaluate, *other, log=tmp_path / "log")
    assert found.wait() == [0] and "loss/val " in found.output, found.output
    assert "the part split off for validation is measured" in found.output


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_without_a_checkpoint_nothing_is_scored(run: Path, tmp_path: Path, command: str) -> None:
    for options in ((), ("--ckpt_path", "last")):
        path = config(tmp_path / "new")
        refused = start(command, "--config", path, *options, log=tmp_path / "log")
        assert refused.wait() == [2]
        assert len(refused.errors) == 1 and f"{command} needs a trained model, and --ckpt_path" in refused.errors[0]


def test_predictions_are_written(run: Path, tmp_path: Path) -> None:
    root = ("--trainer.default_root_dir", tmp_path / "out")
    found = start("predict", "--ckpt_path", checkpoint(run), *PLAIN, *root, log=tmp_path / "log")
    assert found.wait() == [0], found.output
    losses = np.load(tmp_path / "out/predict/token_losses.npz")
    assert losses["losses"].shape == losses["labels"].shape == losses["input_ids"].shape == (8, 32)
    assert (losses["labels"][:, :-1] == losses["input_ids"][:, 1:]).all()
    assert np.isfinite(losses["losses"]).all() and (losses["losses"] > 0).all()
    mean = float(losses["losses"].mean())
    assert f"losses of 8 × 32 tokens, mean {mean:.4f} nats" in found.output
    validated = start("validate", "--ckpt_path", checkpoint(run), *PLAIN, log=tmp_path / "validate")
    assert validated.wait() == [0], validated.output
    (loss,) = (float(m) for m in re.findall(r"loss/val\s*│\s*([\d.]+)", validated.output))
    assert loss == pytest.approx(mean, rel=1e-5)
