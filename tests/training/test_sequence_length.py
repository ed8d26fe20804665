"""Training samples that begin short: lengths by the formula, every token in its turn, and an exact resume."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from runs import CONFIG, TEXT, assert_same_training_state, fit
from trained_rows import Rows, stream

from lit_recycle.callbacks import SequenceLengthWarmup
from lit_recycle.callbacks.data import DataMonitor
from lit_recycle.data.config import DataStage, Source, Until
from lit_recycle.data.length_warmup import LengthStage
from lit_recycle.data.span import Span

STEPS = 7
LENGTHS = [8, 8, 16, 16, 24, 32, 32]
"""By the formula, from 8 to 32 over 5 steps."""


def warmup(**options: Any) -> SequenceLengthWarmup:
    return SequenceLengthWarmup(8, Span(steps=5), **options)


def train(root: Path, strategy: str = "auto", *, lengths: SequenceLengthWarmup | None = None, **options: Any) -> Rows:
    rows = Rows()
    callbacks = [lengths or warmup(), rows]
    fit(root, strategy, **{"steps": STEPS, "events": [], **options}, callbacks=callbacks)
    return rows


@pytest.mark.parametrize("constant", [False, True])
def test_lengths_are_the_formulas_and_no_token_is_lost_or_repeated(constant: bool, tmp_path: Path) -> None:
    rows = Rows()
    trainer, module, _ = fit(
        tmp_path / "run",
        steps=STEPS,
        events=[],
        callbacks=[warmup(constant_tokens=constant), rows],
        accumulate_grad_batches=2,
    )
    assert [len(row) for step in rows.rows.values() for row in step[:1]] == LENGTHS
    assert [len({len(row) for row in step}) for step in rows.rows.values()] == [1] * STEPS
    counts = [len(step) for step in rows.rows.values()]
    assert counts == ([2 * (128 // length) for length in LENGTHS] if constant else [8] * STEPS)
    seen = [token for step in rows.rows.values() for row in step for token in row]
    expected = stream(trainer.datamodule, len(seen) + 32)
    short = sum(length * count for length, count in zip(LENGTHS[:5], counts, strict=False))
    skipped = -short % 32  # the rest of the sample at hand when whole ones begin
    assert seen == expected[:short] + expected[short + skipped : len(seen) + skipped]
    assert module.tokens_seen == len(seen) and module.samples_seen == sum(counts)
    flops = [n * length * CONFIG.num_flops_per_token(length) for n, length in zip(counts, LENGTHS, strict=True)]
    assert module.flops_spent == sum(flops)
    assert sum(tokens for tokens, _ in trainer.datamodule.drawn().values()) == len(seen) + skipped


MIXTURE = {
    "sources": [Source("json", TEXT, 3), Source("email", str(Path(TEXT).parent / "email" / "mime"), 1)],
    "stages": [
        DataStage({"json": 3, "email": 1}, Until(tokens=150)),
        DataStage({"json": 1, "email": 2}),
    ],
    "num_workers": 2,
}


@pytest.mark.parametrize("kind", ["one source", "mixture with workers"])
def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(kind: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {} if kind == "one source" else {"data": MIXTURE, "accumulate_grad_batches": 2}
    whole = train(tmp_path / "whole", **options)
    for step in (2, 4, 5):
        saved = tmp_path / f"whole/checkpoints/step={step}.ckpt"
        part = train(tmp_path / f"from {step}", ckpt_path=saved, **options)
        assert part.rows == {s: rows for s, rows in whole.rows.items() if s >= step}
        last = f"checkpoints/step={STEPS}.ckpt"
        assert_same_training_state(tmp_path / "whole" / last, tmp_path / f"from {step}" / last)


def test_documents_stay_apart_where_a_row_goes_over_from_a_sample_into_the_next(tmp_path: Path) -> None:
    data = {"path": TEXT, "documents": "mask"}
    lengths = SequenceLengthWarmup(stages=[LengthStage(24, Span(steps=3))])
    rows = train(tmp_path / "run", lengths=lengths, data=data, accumulate_grad_batches=2)
    borders = torch.cat([batch["documents"].diff(dim=1) > 0 for batch in rows.batches[:6]])
    seams = torch.arange(6 * 4 * 24).view(-1, 24)[:, 1:] % 32 == 0
    assert seams.any() and borders[seams].all()
    for first, second in zip(rows.batches[::2], rows.batches[1::2], strict=True):
        labels = sum(int((batch["labels"] != -100).sum()) for batch in (first, second))
        assert first["label_count"] == second["label_count"] == labels


def test_validation_is_at_full_length(tmp_path: Path) -> None:
    lengths = []

    class Validation(L.Callback):
        def on_validation_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *_: Any) -> None:
            lengths.append(batch["input_ids"].shape[1])

    fit(
        tmp_path / "run",
        steps=2,
        events=[],
        callbacks=[warmup(), Validation()],
        limit_val_batches=1,
        val_check_interval=1,
    )
    assert lengths == [32, 32]


def test_the_size_of_steps_is_logged(tmp_path: Path) -> None:
    fit(
        tmp_path / "run",
        steps=STEPS,
        events=[],
        callbacks=[warmup(), DataMonitor(every_n_steps=1)],
        logger=CSVLogger(tmp_path, "", ""),
        log_every_n_steps=1,
    )
    with (tmp_path / "metrics.csv").open() as file:
        logged = [row for row in csv.DictReader(file) if row["data/seq_len"]]
    assert [float(row["data/seq_len"]) for row in logged] == LENGTHS
    assert [float(row["data/batch_tokens"]) for row in logged] == [4 * length for length in LENGTHS]


def test_what_cannot_be_is_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"40 tokens per sample are more than the full length, data\.seq_len 32"):
        train(tmp_path / "long", lengths=SequenceLengthWarmup(40, Span(steps=5)))
