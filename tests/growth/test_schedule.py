"""Stages of a run, worked out in advance, against a run that asks before every batch whether an event is due."""

from dataclasses import replace

import pytest
from helpers import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_recycle.data.batch_warmup import Batches, BatchStage
from lit_recycle.data.pace import Pace
from lit_recycle.data.span import Span
from lit_recycle.growth.event import Depth, GrowthEvent, Trigger, Width
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operators import PruneExperts
from lit_recycle.growth.plan import plan_growth
from lit_recycle.growth.schedule import Progress, is_due, stages
from lit_recycle.growth.shape import chinchilla_flops

CONFIG = tiny()
SEQ_LEN, TOKENS = 16, 64
FLOPS = TOKENS * CONFIG.num_flops_per_token(SEQ_LEN)
RUN = dict(pace=Pace.even(SEQ_LEN, TOKENS), max_steps=100)


def event(width=None, depth=Depth(), **at):  # noqa: B008
    return GrowthEvent(Trigger(**at), depth, width)


def simulate(config, events, *, pace, max_steps, start=None):
    """Steps before which the events fire, asking step by step; with the shape and progress at the end."""
    now, fired, waiting, micro_batches = start or Progress(0, 0, 0), [], list(events), 0
    while now.steps < max_steps:
        while waiting and is_due(waiting[0].at, now, NativeModel(config)):
            fired.append(now)
            following = waiting.pop(0)
            config = plan_growth(NativeModel(config), following.operators).after.config
        size = pace.step(now.steps, now.tokens, micro_batches)
        flops = size.tokens * config.num_flops_per_token(size.seq_len)
        now = Progress(now.steps + 1, now.tokens + size.tokens, now.flops + flops)
        micro_batches += size.accumulate
    return fired, config, now


def starts(events, **changes):
    return [stage.start.steps for stage in stages(NativeModel(CONFIG), events, **{**RUN, **changes})]


# --- each kind of trigger ---


@pytest.mark.parametrize(
    ("at", "step"),
    [
        ({"steps": 0}, 0),
        ({"steps": 7}, 7),
        ({"steps": 99}, 99),
        ({"tokens": 7 * TOKENS}, 7),
        ({"tokens": 7 * TOKENS - 1}, 7),
        ({"tokens": 7 * TOKENS + 1}, 8),
        ({"tokens": 7.0 * TOKENS + 0.5}, 8),
        ({"tokens": 0}, 0),
        ({"flops": 7 * FLOPS}, 7),
        ({"flops": 7 * FLOPS - 1}, 7),
        ({"flops": 7 * FLOPS + 1}, 8),
        ({"chinchilla": 7 * FLOPS / chinchilla_flops(CONFIG) - 1e-9}, 7),
        ({"chinchilla": 7 * FLOPS / chinchilla_flops(CONFIG) + 1e-9}, 8),
    ],
    ids=str,
)
def test_the_first_step_at_which_a_trigger_holds(at, step):
    assert starts([event(**at)]) == [0, step]
    progress = Progress(step, step * TOKENS, step * FLOPS)
    assert is_due(Trigger(**at), progress, NativeModel(CONFIG))
    before = Progress(step - 1, (step - 1) * TOKENS, (step - 1) * FLOPS)
    assert not is_due(Trigger(**at), before, NativeModel(CONFIG))


def test_stages_say_what_the_run_will_be():
    events = [event(steps=10), event(Width(noise=0.5), None, tokens=30 * TOKENS)]
    first, deep, wide = stages(NativeModel(CONFIG), events, **RUN, seed=3, first_event=2)
    assert (first.event, first.plan, first.shape.config) == (None, None, CONFIG)
    assert (deep.event, wide.event) == tuple(events)
    assert (deep.shape.config.num_layers, deep.shape.config.num_experts) == (6, 3)
    assert (wide.shape.config.num_layers, wide.shape.config.num_experts) == (6, 6)
    assert (deep.plan.steps[0].key, wide.plan.steps[0].key) == ((3, 2, 0), (3, 3, 0))
    assert deep.plan.steps[0].sources.layers == (0, 0, 1, 1, 2, 2) and wide.plan.label == "experts ×2"
    assert [s.end.steps for s in (first, deep, wide)] == [10, 30, 100]
    assert (first.end, deep.end) == (deep.start, wide.start)
    assert wide.end.tokens == 100 * TOKENS
    per_step = [TOKENS * s.shape.config.num_flops_per_token(SEQ_LEN) for s in (first, deep, wide)]
    assert wide.end.flops == 10 * per_step[0] + 20 * per_step[1] + 70 * per_step[2]


def test_a_run_without_events_is_one_stage():
    (stage,) = stages(NativeModel(CONFIG), [], **RUN)
    assert (stage.start, stage.end) == (Progress(0, 0, 0), Progress(100, 100 * TOKENS, 100 * FLOPS))


def test_a_run_that_is_over_has_a_stage_of_no_length():
    over = Progress(120, 120 * TOKENS, 120 * FLOPS)
    (stage,) = stages(NativeModel(CONFIG), [], **RUN, start=over)
    assert stage.start == stage.end == over


def test_chinchilla_counts_in_units_of_the_model_before_the_event():
    """The second event is measured by the grown model's active parameters, on FLOPs of both stages."""
    unit = chinchilla_flops(CONFIG)
    run = RUN | {"max_steps": 10**6}
    _, _, last = stages(NativeModel(CONFIG), [event(chinchilla=0.5), event(chinchilla=0.5)], **run)
    deep = plan_growth(NativeModel(CONFIG), [Depth().operator]).after.config
    assert last.start.flops >= 0.5 * chinchilla_flops(deep) > 0.5 * unit
    assert last.start.flops - TOKENS * deep.num_flops_per_token(SEQ_LEN) < 0.5 * chinchilla_flops(deep)


def test_kinds_of_triggers_mix():
    assert starts([event(steps=5), event(tokens=9 * TOKENS), event(flops=60 * FLOPS)])[:3] == [0, 5, 9]


def test_several_events_at_one_step():
    assert starts([event(steps=5), event(Width(), None, steps=5), event(tokens=5 * TOKENS)]) == [0, 5, 5, 5]
    assert starts([event(tokens=5 * TOKENS - 3), event(tokens=5 * TOKENS - 1)]) == [0, 5, 5]


def test_counts_beyond_what_a_float_holds_exactly():
    """Where a quotient of floats is a whole number, although a few tokens are missing."""
    tokens = 2**53 + 2**1
    run = RUN | {"pace": Pace.even(SEQ_LEN, tokens)}
    for target in (7 * tokens - 1, 7 * tokens, 7 * tokens + 1, float(7 * tokens), float(7 * tokens) * (1 + 2**-52)):
        (fired,), *_ = simulate(CONFIG, [event(tokens=target)], **run)
        assert starts([event(tokens=target)], **run) == [0, fired.steps], target


# --- what cannot be ---


@pytest.mark.parametrize(
    ("events", "message"),
    [
        ([event(steps=9), event(steps=8)], "before the event that precedes it; put the events in order"),
        ([event(steps=9), event(tokens=7 * TOKENS)], "before the event that precedes it"),
        ([event(steps=100)], "cannot be reached: the run ends at trainer.max_steps 100; raise max_steps"),
        ([event(tokens=99 * TOKENS + 1)], "cannot be reached"),
        ([event(flops=1e30)], "cannot be reached"),
        ([event(chinchilla=1e9)], "cannot be reached"),
        ([event(steps=3), event(steps=200)], r"event 2 .at 200 steps. cannot be reached"),
    ],
)
def test_events_out_of_order_or_out_of_reach(events, message):
    with pytest.raises(ValueError, match=message):
        stages(NativeModel(CONFIG), events, **RUN)


def test_events_are_called_by_their_number_in_the_configuration():
    """Not in the life of a model that has grown before, and not among those that are still to come."""
    with pytest.raises(ValueError, match=r"event 2 .at 200 steps. cannot be reached"):
        stages(NativeModel(CONFIG), [event(steps=3), event(steps=200)], **RUN, first_event=3)
    with pytest.raises(ValueError, match=r"event 3 .at 200 steps. cannot be reached"):
        stages(NativeModel(CONFIG), [event(steps=3), event(steps=200)], **RUN, first_event=3, numbers=[1, 3])


def test_an_event_at_the_end_cannot_be_reached_where_the_size_of_a_step_changes_there():
    pace = Pace(SEQ_LEN, TOKENS, 1, Batches((BatchStage(1, Span(steps=100)),), 2))
    with pytest.raises(ValueError, match="cannot be reached"):
        stages(NativeModel(CONFIG), [event(steps=100)], pace=pace, max_steps=100)


@pytest.mark.parametrize("at", [{"steps": 9}, {"tokens": 9 * TOKENS}, {"flops": 9 * FLOPS}])
def test_events_in_the_past(at):
    now = Progress(10, 10 * TOKENS, 10 * FLOPS)
    with pytest.raises(ValueError, match="in the past: the run is at step 10; let it come later"):
        stages(NativeModel(CONFIG), [event(**at)], **RUN, start=now)


@pytest.mark.parametrize(
    "at", [{"steps": 10}, {"tokens": 9 * TOKENS + 1}, {"tokens": 10 * TOKENS}, {"flops": 9 * FLOPS + 1}]
)
def test_an_anchor_stands_up_to_one_step_behind_its_trigger(at):
    now = Progress(10, 10 * TOKENS, 10 * FLOPS)
    first, second = stages(NativeModel(CONFIG), [event(**at)], **RUN, start=now)
    assert first.start == first.end == second.start == now


def test_progress_counts_on_from_where_it_is():
    """After a change of the batch size the tokens are no multiple of the steps."""
    now = Progress(10, 1000, 10**9)
    first, second = stages(NativeModel(CONFIG), [event(tokens=1000 + 3 * TOKENS)], **RUN, start=now)
    assert first.end == second.start == Progress(13, 1000 + 3 * TOKENS, 10**9 + 3 * FLOPS)


# --- any run ---

axes = st.sampled_from([(Depth(), None), (None, Width()), (Depth(keep_first=1), Width(factor=3))])
amounts = st.floats(0, 60) | st.integers(0, 60)


@st.composite
def any_events(draw):
    found = []
    moments = draw(st.lists(amounts, max_size=3))
    for moment in sorted(moments) if draw(st.integers(0, 3)) else moments:  # mostly in order
        unit, scale = draw(
            st.sampled_from(
                [("steps", 1), ("tokens", TOKENS), ("flops", FLOPS), ("chinchilla", FLOPS / chinchilla_flops(CONFIG))]
            )
        )
        value = moment * scale
        depth, width = draw(axes)
        found.append(GrowthEvent(Trigger(**{unit: int(value) if unit == "steps" else value}), depth, width))
    return found


@settings(max_examples=150)
@given(any_events(), st.integers(0, 12), st.integers(30, 80))
def test_stages_are_what_a_run_does(events, start_step, max_steps):
    """Where the events are in order; where they are not, the run would have had one of them earlier."""
    run = RUN | {"max_steps": max_steps, "start": Progress(start_step, start_step * TOKENS, start_step * FLOPS)}
    fired, config, end = simulate(CONFIG, events, **run)
    try:
        planned = stages(NativeModel(CONFIG), events, **run)
    except ValueError as error:
        if "cannot be reached" in str(error):
            assert len(fired) < len(events)
        else:
            assert any(was_due_earlier(e, now) for e, now in zip(events, fired, strict=False))
        return
    assert [stage.start for stage in planned[1:]] == fired
    assert planned[-1].shape.config == config
    assert planned[-1].end == end


def was_due_earlier(late, now):
    """Whether an event could have fired a step before it did; in units of the first model's FLOPs."""
    before = replace(now, steps=now.steps - 1, tokens=now.tokens - TOKENS, flops=now.flops - FLOPS)
    return is_due(late.at, before, NativeModel(CONFIG))


def test_what_an_event_chooses_by_is_measured_in_steps_before_it():
    at = Progress(3, 3 * TOKENS, 3 * FLOPS)
    by_load = GrowthEvent(Trigger(steps=3), grow=[PruneExperts(2, by="load")])
    assert starts([event(steps=2), by_load]) == [0, 2, 3]
    assert starts([by_load], start=at) == [3, 3], "resumed right before it"
    first = GrowthEvent(Trigger(tokens=0), grow=by_load.grow)
    for events in ([event(steps=3), by_load], [event(tokens=3 * TOKENS), by_load], [first]):
        with pytest.raises(ValueError, match=r"event \d .* PruneExperts chooses by load, .* and there are none"):
            starts(events)
    by_norm = GrowthEvent(Trigger(steps=3), grow=[PruneExperts(2)])
    assert starts([event(steps=3), by_norm]) == [0, 3, 3]
