"""Warm-ups of length and batch size: their formulas, and the pace of a run that they make."""

from fractions import Fraction
from math import floor, inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.data.batch_warmup import BatchStage, BatchWarmup
from lit_recycle.data.length_warmup import LengthStage, LengthWarmup
from lit_recycle.data.pace import Pace
from lit_recycle.data.span import Span


def formula(start: int, full: int, t: int, T: int) -> int:
    """The GPT curriculum with root 1, in whole numbers."""
    return min(floor(start + (full - start) * Fraction(t, T)) // 8 * 8, full)


@given(st.integers(1, 30), st.integers(0, 60), st.integers(1, 700), st.sampled_from(["steps", "tokens"]))
def test_the_linear_formula(start, more, over, unit):
    start, full = 8 * start, 8 * (start + more)
    lengths = LengthWarmup(start, Span(**{unit: over})).lengths(full)
    for t in range(0, over + 3):
        now = {"steps": 0, "tokens": 0} | {unit: t}
        assert lengths.at(**now) == (formula(start, full, t, over) if t < over else full)


def test_a_square_root_is_faster_at_first():
    lengths = LengthWarmup(8, Span(steps=100), root=2).lengths(108)
    assert [lengths.at(t, 0) for t in (0, 1, 4, 25, 36, 99, 100)] == [8, 16, 24, 56, 64, 104, 108]


def test_stages():
    warmup = LengthWarmup(stages=(LengthStage(16, Span(tokens=100)), LengthStage(32, Span(tokens=1000))))
    lengths = warmup.lengths(64)
    assert [lengths.at(7, t) for t in (0, 99, 100, 999, 1000)] == [16, 16, 32, 32, 64]


lengths = st.none() | st.builds(
    LengthWarmup,
    st.sampled_from([8, 16, 40]),
    st.builds(Span, steps=st.integers(1, 40)) | st.builds(Span, tokens=st.integers(1, 9000)),
    st.sampled_from([1, 2]),
    constant_tokens=st.booleans(),
)
stages = st.lists(st.integers(1, 5000), min_size=1, max_size=3, unique=True).map(sorted)
batches = st.none() | st.builds(
    lambda ends, counts: BatchWarmup(
        tuple(BatchStage(n, Span(tokens=end)) for n, end in zip(counts, ends, strict=False))
    ),
    stages,
    st.lists(st.integers(1, 6), min_size=3, max_size=3),
)


@given(lengths, batches, st.integers(1, 4))
def test_a_pace_holds_as_long_as_it_says(length_warmup, batch_warmup, accumulate):
    pace = Pace.even(64, 4 * 64, processes=2, accumulate=accumulate)
    pace = pace.with_length_warmup(length_warmup) if length_warmup else pace
    pace = pace.with_batch_warmup(batch_warmup) if batch_warmup else pace
    steps = tokens = micro_batches = left = 0
    size = (0, 0, 0)
    while steps < 80:
        step = pace.step(steps, tokens, micro_batches)
        now = (step.seq_len, step.rows, step.accumulate)
        assert step.holds >= 1 and micro_batches % step.accumulate == 0
        assert now == size or left <= 0
        left, size = (step.holds if left <= 0 else left) - 1, now
        assert step.tokens == step.seq_len * step.rows * step.accumulate * 2
        if pace.constant_tokens:
            assert 4 * 64 - step.seq_len < step.rows * step.seq_len <= 4 * 64
        steps, tokens, micro_batches = steps + 1, tokens + step.tokens, micro_batches + step.accumulate
    assert pace.tokens_until(80) == tokens


def test_micro_batches_change_at_a_multiple_of_the_new_number():
    pace = Pace.even(8, 8, accumulate=4)
    pace = pace.with_batch_warmup(BatchWarmup((BatchStage(1, Span(tokens=24)), BatchStage(2, Span(tokens=72)))))
    tokens, taken = 0, []
    for step in range(10):
        taken.append(pace.step(step, tokens, tokens // 8).accumulate)
        tokens += 8 * taken[-1]
    assert taken == [1, 1, 1, 1, 2, 2, 2, 2, 4, 4]  # due after 3 and 9 micro-batches, changed after 4 and 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "takes either start and over, or stages"),
        ({"start": 8}, "takes either start and over, or stages"),
        ({"start": 8, "over": Span(steps=9), "stages": (LengthStage(8, Span(steps=5)),)}, "either start and over"),
        ({"start": 12, "over": Span(steps=9)}, "12 tokens per sample are no multiple of 8: choose another"),
        ({"start": 0, "over": Span(steps=9)}, "0 tokens per sample are no multiple"),
        ({"start": 72, "over": Span(steps=9)}, "72 tokens per sample are more than the full length, data.seq_len 64"),
        ({"start": 8, "over": Span(steps=9), "root": 0}, "root must be above 0"),
        ({"start": 8, "over": Span(steps=9), "multiple_of": 0}, "multiple_of must be at least 1"),
        (
            {"stages": (LengthStage(8, Span(steps=5)), LengthStage(16, Span(steps=5)))},
            r"until must grow from stage to stage, got \[5, 5\]",
        ),
        (
            {"stages": (LengthStage(8, Span(steps=5)), LengthStage(16, Span(tokens=5)))},
            "until must be in steps for all stages, or in tokens for all",
        ),
    ],
)
def test_length_warmups_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        LengthWarmup(**arguments).lengths(64)


@pytest.mark.parametrize(("given", "message"), [({}, "exactly one"), ({"steps": 0}, "above 0"), ({"tokens": inf}, "0")])
def test_spans_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        Span(**given)


def test_batch_warmups_that_cannot_be():
    with pytest.raises(ValueError, match="stages is empty"):
        BatchWarmup(())
    with pytest.raises(ValueError, match="accumulate must be at least 1, got 0"):
        BatchWarmup((BatchStage(0, Span(steps=1)),))
