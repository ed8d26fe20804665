"""Training with documents kept apart: the loss is the mean over all labels of an optimizer step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from data import token_files
from runs import fit, on_processes

from lit_recycle.checkpoints.native import load_whole_checkpoint

STEPS = 3
MODULE = {"balance_loss": 0.0, "z_loss": 0.0}
"""The balancing loss is of micro-batches."""


def data(folder: Path) -> dict[str, Any]:
    """Long documents and very short ones, so that batches differ in how many labels they have."""
    draw = np.random.default_rng(0)
    documents = [
        np.append(draw.integers(0, 256, 300 if number % 40 < 4 else draw.integers(0, 2)), token_files.EOS)
        for number in range(2000)
    ]
    path = folder / "ids.bin"
    return {"path": str(path if path.exists() else token_files.flat(path, documents)), "documents": "mask"}


class ByHand(L.Callback):
    """The mean loss over all labels of each step, from logits held whole, before the step is taken."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self._sums: list[tuple[float, int]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        with torch.no_grad():
            logits, _ = pl_module.model(batch["input_ids"], documents_BS=batch["documents"])
            nll = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
        self._sums.append((float(nll), int((batch["labels"] != -100).sum())))
        if len(self._sums) == trainer.accumulate_grad_batches:
            self.losses.append(sum(nll for nll, _ in self._sums) / sum(count for _, count in self._sums))
            self._sums = []


def train(root: Path, strategy: str, batch_size: int, accumulate: int) -> list[float]:
    """The loss of each optimizer step."""
    hand = ByHand()
    options = {"events": [], "steps": STEPS, "data": data(root.parent), "module": MODULE, "callbacks": [hand]}
    _, _, losses = fit(root, strategy, batch_size=batch_size, accumulate_grad_batches=accumulate, **options)
    steps = np.array(losses).reshape(STEPS, accumulate)
    if strategy == "auto":
        assert steps.mean(1) == pytest.approx(hand.losses, rel=1e-5)
        if accumulate > 1:  # or this would be true of a mean of means, too
            assert steps.std() > 0.1
    return steps.mean(1).tolist()


def _on_each(root: Path) -> None:
    losses = train(root, "ddp", 8, 2)
    (root.parent / "losses.json").write_text(json.dumps(losses))


def test_the_loss_is_the_same_for_every_number_of_processes_and_micro_batches(tmp_path: Path) -> None:
    expected = train(tmp_path / "one", "auto", 16, 1)
    runs = {"two": train(tmp_path / "two", "auto", 8, 2), "four": train(tmp_path / "four", "auto", 4, 4)}
    on_processes(2, _on_each, tmp_path / "ddp")
    runs["ddp"] = json.loads((tmp_path / "losses.json").read_text())
    last = f"checkpoints/step={STEPS}.ckpt"
    weights = load_whole_checkpoint(tmp_path / "one" / last)["state_dict"]
    for name, losses in runs.items():
        assert losses == pytest.approx(expected, rel=1e-5), name
        for key, tensor in load_whole_checkpoint(tmp_path / name / last)["state_dict"].items():
            torch.testing.assert_close(tensor, weights[key], rtol=1e-3, atol=2e-5, msg=f"{name}: {key}")
