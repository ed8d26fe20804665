"""Events check themselves, name the key that is wrong, and survive being written down."""

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.growth.event import Depth, GrowthEvent, Rewarm, Trigger, Width

AT = Trigger(steps=1)


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (lambda: Trigger(), ["at", "steps", "tokens", "flops", "chinchilla"]),
        (lambda: Trigger(steps=1, tokens=2), ["at", "steps, tokens"]),
        (lambda: Trigger(steps=0, flops=0), ["at", "steps, flops"]),
        (lambda: Trigger(steps=-1), ["at.steps", "-1"]),
        (lambda: Trigger(tokens=-1.0), ["at.tokens"]),
        (lambda: Trigger(flops=-1.0), ["at.flops"]),
        (lambda: Trigger(chinchilla=-0.5), ["at.chinchilla", "-0.5"]),
        (lambda: Trigger(tokens=math.inf), ["at.tokens", "inf"]),
        (lambda: Trigger(flops=math.nan), ["at.flops", "nan"]),
        (lambda: Depth(factor=1), ["depth.factor", "1"]),
        (lambda: Depth(method="interleave"), ["depth.method", "interposition", "stack", "'interleave'"]),
        (lambda: Depth(keep_first=-1), ["depth.keep_first"]),
        (lambda: Depth(keep_last=-1), ["depth.keep_last"]),
        (lambda: Depth(keep_first=2, keep_last=1).source_layers(3), ["depth.keep_first 2", "depth.keep_last 1", "3"]),
        (lambda: Depth(layers=[0, 3]).source_layers(3), ["depth.layers", "0..2", "[0, 3]"]),
        (lambda: Depth(layers=[-1]).source_layers(3), ["depth.layers"]),
        (lambda: Depth(layers=[]).source_layers(3), ["depth.layers"]),
        (lambda: Width(factor=1), ["width.factor", "1"]),
        (lambda: Width(noise=-0.1), ["width.noise", "-0.1"]),
        (lambda: Width(top_k="double"), ["width.top_k", "scale", "keep", "'double'"]),
        (lambda: Rewarm(steps=0), ["rewarm.steps", "0"]),
        (lambda: Rewarm(steps=1, start_factor=1.5), ["rewarm.start_factor", "1.5"]),
        (lambda: Rewarm(steps=1, start_factor=-0.5), ["rewarm.start_factor", "-0.5"]),
        (lambda: GrowthEvent(AT), ["steps 1", "depth", "width"]),
        (lambda: GrowthEvent(AT, Depth(), optimizer_state="keep"), ["optimizer_state", "carry", "reset", "'keep'"]),
    ],
)
def test_errors_name_the_key(make, keys):
    with pytest.raises(ValueError) as error:
        make()
    assert all(key in str(error.value) for key in keys), error.value
    assert "\n" not in str(error.value)


def test_the_edges_of_what_is_allowed():
    Trigger(steps=0)
    Width(noise=0.0)
    Rewarm(steps=1, start_factor=0.0)
    Rewarm(steps=1, start_factor=1.0)
    assert Depth(keep_first=1, keep_last=1).source_layers(3) == (0, 1, 1, 2)
    assert Depth(factor=1, layers=[2, 0]).source_layers(3) == (2, 0)


def test_written_out_layers_replace_the_method():
    assert Depth(factor=3, method="stack", keep_first=9, layers=[0, 0, 1]).source_layers(2) == (0, 0, 1)


def test_source_layers_follow_the_method():
    assert Depth().source_layers(3) == (0, 0, 1, 1, 2, 2)
    assert Depth(keep_first=2).source_layers(4) == (0, 1, 2, 2, 3, 3)
    assert Depth(keep_last=2).source_layers(4) == (0, 0, 1, 1, 2, 3)
    assert Depth(method="stack").source_layers(3) == (0, 1, 2, 0, 1, 2)
    assert Depth(method="stack", keep_first=8, keep_last=8).source_layers(32) == (*range(24), *range(8, 32))


@pytest.mark.parametrize(
    ("trigger", "unit", "text"),
    [
        (Trigger(steps=1200), "steps", "steps 1,200"),
        (Trigger(tokens=1e9), "tokens", "tokens 1,000,000,000.0"),
        (Trigger(chinchilla=1.2), "chinchilla", "chinchilla 1.2"),
    ],
)
def test_a_trigger_says_its_unit(trigger, unit, text):
    assert trigger.unit == unit
    assert str(trigger) == text


def test_rewarm_is_a_line_from_start_to_one():
    rewarm = Rewarm(steps=4, start_factor=0.2)
    assert [rewarm.factor(i) for i in range(6)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert rewarm.factor(-3) == pytest.approx(0.2)


number = st.integers(0, 10**6) | st.floats(0, 1e24)
triggers = st.one_of(
    st.builds(Trigger, steps=st.integers(0, 10**9)),
    st.builds(Trigger, tokens=number),
    st.builds(Trigger, flops=number),
    st.builds(Trigger, chinchilla=st.floats(0, 10)),
)
depths = st.builds(
    Depth,
    factor=st.integers(2, 4),
    method=st.sampled_from(["interposition", "stack"]),
    keep_first=st.integers(0, 2),
    layers=st.none() | st.lists(st.integers(0, 9), min_size=1),
    zero_output=st.booleans(),
)
widths = st.builds(
    Width,
    factor=st.integers(2, 4),
    noise=st.floats(0, 1),
    top_k=st.sampled_from(["scale", "keep"]),
    reset_balance=st.booleans(),
)
events = st.builds(
    GrowthEvent,
    triggers,
    depths,
    st.none() | widths,
    st.sampled_from(["carry", "fresh_copies", "reset"]),
    st.none() | st.builds(Rewarm, st.integers(1, 100), st.floats(0, 1)),
) | st.builds(GrowthEvent, triggers, st.none(), widths)


@given(events)
def test_an_event_survives_being_written_down(event):
    assert GrowthEvent.from_dict(event.to_dict()) == event
    assert GrowthEvent.from_dict(json.loads(json.dumps(event.to_dict()))) == event


def test_an_event_can_be_kept_in_a_checkpoint(tmp_path):
    """Plain types alone, so that nothing has to be unpickled."""
    event = GrowthEvent(AT, Depth(layers=[0, 0, 1]), Width(), rewarm=Rewarm(steps=3))
    torch.save(event.to_dict(), tmp_path / "event.ckpt")
    assert GrowthEvent.from_dict(torch.load(tmp_path / "event.ckpt", weights_only=True)) == event
