"""Optimizer steps that get more micro-batches: sizes and rates by the schedule, counted, and an exact resume."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from runs import CONFIG, TEXT, assert_same_training_state, fit
from trained_rows import Rows, stream

from lit_recycle.callbacks import BatchSizeWarmup, SequenceLengthWarmup
from lit_recycle.data.batch_warmup import BatchStage, BatchWarmup
from lit_recycle.data.pace import Pace
from lit_recycle.data.span import Span
from lit_recycle.growth.event import Depth, GrowthEvent, Rewarm, Trigger
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.schedule import stages

STEPS = 9
STAGES = [BatchStage(1, Span(tokens=3 * 64)), BatchStage(2, Span(tokens=10 * 64 - 1))]
COUNTS = [1, 1, 1, 1, 2, 2, 2, 2, 4]
"""Micro-batches of 64 tokens: due after 3 of them and after 10, changed at multiples of the new number, 4 and 12."""
SCHEDULE = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.9)
EVENT = GrowthEvent(Trigger(tokens=6 * 64), Depth(2), rewarm=Rewarm(2))


class Rates(L.Callback):
    """The rate with which each step is taken."""

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Any, optimizer: Any) -> None:
        self.rates[trainer.global_step] = optimizer.param_groups[0]["lr"]


def train(root: Path, *, sqrt_rate: bool = True, beside: Any = (), **options: Any) -> tuple[Any, Any, Rows, Rates]:
    callbacks = [BatchSizeWarmup(STAGES, sqrt_rate), *beside, rows := Rows(), rates := Rates()]
    options = {"steps": STEPS, "events": [], "batch_size": 2, "accumulate_grad_batches": 4, **options}
    trainer, module, _ = fit(root, callbacks=callbacks, module={"lr_scheduler": SCHEDULE}, **options)
    return trainer, module, rows, rates


@pytest.mark.parametrize("sqrt_rate", [False, True])
def test_steps_and_rates_are_those_of_the_schedule(sqrt_rate: bool, tmp_path: Path) -> None:
    trainer, module, rows, rates = train(tmp_path / "run", sqrt_rate=sqrt_rate, events=[EVENT])
    assert [len(step) // 2 for step in rows.rows.values()] == COUNTS
    seen = [token for step in rows.rows.values() for row in step for token in row]
    assert seen == stream(trainer.datamodule, len(seen)) and len(seen) == module.tokens_seen == 64 * sum(COUNTS)
    (record,) = module.growth
    assert record["steps"] == 5
    for step, count in enumerate(COUNTS):
        ramp = {5: 0.1, 6: 0.55}.get(step, 1.0)
        expected = 1e-3 * 0.9**step * ramp * (count**0.5 if sqrt_rate else 1.0)
        assert rates.rates[step] == pytest.approx(expected, rel=1e-12), step
    pace = Pace.even(32, 64, accumulate=4).with_batch_warmup(BatchWarmup(tuple(STAGES)))
    first, last = stages(NativeModel(CONFIG), [EVENT], pace=pace, max_steps=STEPS)
    assert (record["steps"], record["tokens"], record["flops"]) == tuple(vars(last.start).values())
    assert last.end == module.progress and (first.first.tokens, last.last.tokens) == (64, 256)
    assert trainer.accumulate_grad_batches == 4


def test_the_rate_needs_no_growth(tmp_path: Path) -> None:
    _, _, _, rates = train(tmp_path / "run")
    expected = [1e-3 * 0.9**step * count**0.5 for step, count in enumerate(COUNTS)]
    assert list(rates.rates.values()) == pytest.approx(expected, rel=1e-12)
    _, _, _, again = train(tmp_path / "on", ckpt_path=tmp_path / "run/checkpoints/step=6.ckpt")
    assert list(again.rates.values()) == list(rates.rates.values())[6:]


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path: Path) -> None:
    """With a length that grows, a growth, labels left out, and validation within the run."""
    options: dict[str, Any] = {
        "events": [EVENT],
        "data": {"path": TEXT, "documents": "mask"},
        "limit_val_batches": 1,
        "val_check_interval": 4,
    }

    def lengths() -> SequenceLengthWarmup:
        return SequenceLengthWarmup(8, Span(steps=6), constant_tokens=True)

    _, _, whole, rates = train(tmp_path / "whole", beside=[lengths()], **options)
    last = f"checkpoints/step={STEPS}.ckpt"
    for step in (2, 4, 5, 7):
        saved = tmp_path / f"whole/checkpoints/step={step}.ckpt"
        _, _, part, again = train(tmp_path / f"{step}", beside=[lengths()], ckpt_path=saved, **options)
        assert part.rows == {s: rows for s, rows in whole.rows.items() if s >= step}
        assert again.rates == {s: rate for s, rate in rates.rates.items() if s >= step}
        assert_same_training_state(tmp_path / "whole" / last, tmp_path / f"{step}" / last)
    for batches in (part.batches[-4:], whole.batches[-4:]):
        assert {int(b["label_count"]) for b in batches} == {sum(int((b["labels"] != -100).sum()) for b in batches)}


def test_a_stage_trains_as_a_run_with_its_number_of_micro_batches(tmp_path: Path) -> None:
    warmup = BatchSizeWarmup([BatchStage(2, Span(steps=3))])
    for name, options in (("plain", {"accumulate_grad_batches": 2}), ("stage", {"callbacks": [warmup]})):
        fit(tmp_path / name, steps=3, events=[], batch_size=2, **options)
    assert_same_training_state(*(tmp_path / name / "checkpoints/step=3.ckpt" for name in ("plain", "stage")))


def test_validation_within_a_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="val_check_interval 9 must be a multiple of BatchSizeWarmup's accumulate 2"):
        train(tmp_path / "run", val_check_interval=9, accumulate_grad_batches=3)
