"""Events check themselves, name the key that is wrong, and survive being written down."""

import json
import math
from copy import deepcopy

import pytest
import torch
from helpers import plan_of, tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from lit_recycle.growth.event import Depth, GrowthEvent, Rewarm, Trigger, Width
from lit_recycle.growth.operators import DuplicateExperts, Solar, Stack, Upcycle, WidenHidden

AT = Trigger(steps=1)


def layers(depth, num_layers):
    """The source of each grown layer."""
    return plan_of(tiny(num_layers=num_layers), depth).steps[0].sources.layers


def parsed(values):
    """An event as the command line reads it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--event", type=GrowthEvent)
    return parser.instantiate(parser.parse_object({"event": values})).event


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
        (lambda: layers(Depth(keep_first=2, keep_last=1), 3), ["keep_first 2", "keep_last 1", "3"]),
        (lambda: layers(Depth(layers=[0, 3]), 3), ["Layers", "0..2", "[0, 3]"]),
        (lambda: layers(Depth(layers=[-1]), 3), ["Layers"]),
        (lambda: layers(Depth(layers=[]), 3), ["Layers"]),
        (lambda: Width(factor=1), ["width.factor", "1"]),
        (lambda: Width(noise=-0.1), ["width.noise", "-0.1"]),
        (lambda: Width(top_k="double"), ["width.top_k", "scale", "keep", "'double'"]),
        (lambda: Rewarm(steps=0), ["rewarm.steps", "0"]),
        (lambda: Rewarm(steps=1, start_factor=1.5), ["rewarm.start_factor", "1.5"]),
        (lambda: Rewarm(steps=1, start_factor=-0.5), ["rewarm.start_factor", "-0.5"]),
        (lambda: GrowthEvent(AT), ["1 steps", "depth", "width", "grow"]),
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
    assert layers(Depth(keep_first=1, keep_last=1), 3) == (0, 1, 1, 2)
    assert layers(Depth(factor=1, layers=[2, 0]), 3) == (2, 0)


def test_written_out_layers_replace_the_method():
    assert layers(Depth(factor=3, method="stack", keep_first=9, layers=[0, 0, 1]), 2) == (0, 0, 1)


def test_source_layers_follow_the_method():
    assert layers(Depth(), 3) == (0, 0, 1, 1, 2, 2)
    assert layers(Depth(keep_first=2), 4) == (0, 1, 2, 2, 3, 3)
    assert layers(Depth(keep_last=2), 4) == (0, 0, 1, 1, 2, 3)
    assert layers(Depth(method="stack"), 3) == (0, 1, 2, 0, 1, 2)
    assert layers(Depth(method="stack", keep_first=8, keep_last=8), 32) == (*range(24), *range(8, 32))


@pytest.mark.parametrize(
    ("trigger", "unit", "text"),
    [
        (Trigger(steps=1200), "steps", "1,200 steps"),
        (Trigger(tokens=1e9), "tokens", "1,000,000,000 tokens"),
        (Trigger(chinchilla=1.2), "chinchilla", "1.2 × F_c"),
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
    st.lists(st.sampled_from([Solar(1), WidenHidden(), Upcycle(4, in_layers=[1])]), max_size=2),
    st.sampled_from(["carry", "fresh_copies", "reset"]),
    st.none() | st.builds(Rewarm, st.integers(1, 100), st.floats(0, 1)),
) | st.builds(GrowthEvent, triggers, st.none(), widths)


@settings(max_examples=20)
@given(events)
def test_an_event_survives_being_written_down(event):
    """As a configuration, from which the same operators are read."""
    written = json.loads(json.dumps(event.to_dict()))
    assert written == event.to_dict()
    again = parsed(deepcopy(written))
    assert again.operators == event.operators and again.to_dict() == written


def test_short_forms_are_what_they_are_short_for():
    short = GrowthEvent(AT, Depth(3, "stack"), Width(2, noise=0.5))
    long = GrowthEvent(AT, grow=[Stack(3), DuplicateExperts(2, noise=0.5)])
    assert short.operators == long.operators and short.to_dict() == long.to_dict()


def test_an_event_can_be_kept_in_a_checkpoint(tmp_path):
    """Plain types alone, so that nothing has to be unpickled."""
    event = GrowthEvent(AT, Depth(layers=[0, 0, 1]), Width(), rewarm=Rewarm(steps=3))
    torch.save(event.to_dict(), tmp_path / "event.ckpt")
    assert torch.load(tmp_path / "event.ckpt", weights_only=True) == event.to_dict()
