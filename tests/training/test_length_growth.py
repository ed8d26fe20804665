"""Growths that set the length of samples together with other axes: in a run as planned, and remembered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runs import CONFIG, assert_same_training_state, fit
from trained_rows import Rows, stream

from lit_recycle.callbacks import GrowthCallback, SequenceLengthWarmup
from lit_recycle.data.pace import Pace
from lit_recycle.data.span import Span
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operators import RotaryBase
from lit_recycle.growth.schedule import stages

STEPS = 7
EVENTS = [
    GrowthEvent(Trigger(steps=2), depth=Depth(2), grow=[RotaryBase(500.0)], seq_len=16),
    GrowthEvent(Trigger(tokens=2 * 4 * 8 + 3 * 4 * 16 - 5), width=Width(2), seq_len=32),
]
LENGTHS = [8, 8, 16, 16, 16, 32, 32]


def train(root: Path, strategy: str = "auto", *, constant: bool = False, **options: Any) -> tuple[Any, Any, Rows]:
    events = [EVENTS[0], GrowthEvent(Trigger(steps=5), width=Width(2), seq_len=32)] if constant else EVENTS
    growth = GrowthCallback(events, start_seq_len=8, constant_tokens=constant)
    options = {"steps": STEPS, "events": [], "before_growth": [growth], **options}
    trainer, module, _ = fit(root, strategy, callbacks=[rows := Rows()], **options)
    return trainer, module, rows


@pytest.mark.parametrize("constant", [False, True])
def test_a_run_is_what_was_planned(constant: bool, tmp_path: Path) -> None:
    trainer, module, rows = train(tmp_path / "run", constant=constant, accumulate_grad_batches=2, batch_size=2)
    assert [len(row) for step in rows.rows.values() for row in step[:1]] == LENGTHS
    seen = [token for step in rows.rows.values() for row in step for token in row]
    assert seen == stream(trainer.datamodule, len(seen))[: len(seen)]
    (growth,) = (c for c in trainer.callbacks if isinstance(c, GrowthCallback))
    pace = Pace.even(32, 2 * 32, accumulate=2).with_growing_length(8, constant)
    planned = stages(NativeModel(CONFIG), growth.events, pace=pace, max_steps=STEPS)
    for record, stage in zip(module.growth, planned[1:], strict=True):
        assert (record["steps"], record["tokens"], record["flops"]) == tuple(vars(stage.start).values())
        assert record["event"]["seq_len"] == stage.first.seq_len and record["label"] == stage.label
    assert record["label"] == "experts ×2 and 32 tokens per sample"
    assert module.config.rope_theta == module.model.config.rope_theta == 500.0 and CONFIG.rope_theta != 500.0
    assert planned[-1].end == module.progress and planned[-1].end.tokens == len(seen)


def test_a_resumed_run_is_the_undisturbed_one_bit_for_bit(tmp_path: Path) -> None:
    _, _, whole = train(tmp_path / "whole")
    last = f"checkpoints/step={STEPS}.ckpt"
    for name in ("anchor-step=2", "step=2", "step=3", "anchor-step=5", "step=6"):
        saved = tmp_path / f"whole/checkpoints/{name}.ckpt"
        _, _, part = train(tmp_path / name, ckpt_path=saved)
        assert part.rows == {s: rows for s, rows in whole.rows.items() if s >= int(name[-1])}
        assert_same_training_state(tmp_path / "whole" / last, tmp_path / name / last)


def test_the_length_is_remembered_by_whoever_does_not_say_it(tmp_path: Path) -> None:
    _, _, whole = train(tmp_path / "whole")
    saved = tmp_path / "whole/checkpoints/step=4.ckpt"
    _, _, part = train(tmp_path / "without", ckpt_path=saved, before_growth=[], steps=6)
    assert part.rows[4] == whole.rows[4] and len(part.rows[5][0]) == 16
    later = GrowthCallback(EVENTS[1:], start_seq_len=8)
    _, _, part = train(tmp_path / "later", ckpt_path=saved, before_growth=[later])
    assert part.rows == {step: rows for step, rows in whole.rows.items() if step >= 4}


@pytest.mark.parametrize(
    ("growth", "message"),
    [
        (
            {"start_seq_len": 64},
            r"start_seq_len sets 64 tokens per sample, more than the full length, data\.seq_len 32",
        ),
        (
            {"events": [GrowthEvent(Trigger(steps=1), Depth(), seq_len=64)]},
            r"event 1 \(at 1 steps\) sets 64 tokens per sample",
        ),
        ({"start_seq_len": 0}, "start_seq_len must be at least 1"),
        ({"start_seq_len": 8, "beside": SequenceLengthWarmup(8, Span(steps=3))}, "both set the length of samples"),
    ],
)
def test_what_cannot_be_is_told_before_the_first_step(growth: dict[str, Any], message: str, tmp_path: Path) -> None:
    beside = [growth.pop("beside")] if "beside" in growth else []
    with pytest.raises(ValueError, match=message):
        fit(tmp_path / "run", steps=4, events=[], callbacks=[GrowthCallback(**{"events": EVENTS, **growth}), *beside])
    assert not list(tmp_path.rglob("*.ckpt"))


def test_the_length_alone_is_no_growth() -> None:
    with pytest.raises(ValueError, match=r"grows nothing.* \(SequenceLengthWarmup changes seq_len alone\)"):
        GrowthEvent(Trigger(steps=1), seq_len=8)
