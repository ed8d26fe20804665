"""Source maps of operators, against maps written out by hand."""

from argparse import ArgumentError
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from maps import Shape

from lit_recycle.growth import operators
from lit_recycle.growth.facts import Facts
from lit_recycle.growth.operator import Operator
from lit_recycle.growth.operators import (
    DropLayers,
    DuplicateExperts,
    InsertEvery,
    Interpolate,
    Interpose,
    Layers,
    Middle,
    PruneExperts,
    Solar,
    Stack,
    Upcycle,
    WidenHeads,
    WidenHidden,
    WidenInner,
)
from lit_recycle.growth.operators.duplicate_experts import by_utility, spread


def layers(operator, num_layers, **shape):
    return operator.sources(Shape((2,) * num_layers, **shape), Facts()).layers


def experts(operator, count, facts=None, **shape):
    return operator.sources(Shape((count,), **shape), facts or Facts()).axes["E"][0].sources


def test_the_maps_of_the_paper():
    assert layers(Interpose(2), 3) == (0, 0, 1, 1, 2, 2)
    assert layers(Stack(2), 3) == (0, 1, 2, 0, 1, 2)
    assert experts(DuplicateExperts(2), 4) == (0, 0, 1, 1, 2, 2, 3, 3)
    assert experts(DuplicateExperts(3, order="appended"), 2) == (0, 1, 0, 1, 0, 1)


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        (Interpose(3), (0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3)),
        (Interpose(2, keep_first=1), (0, 1, 1, 2, 2, 3, 3)),
        (Interpose(2, keep_last=1), (0, 0, 1, 1, 2, 2, 3)),
        (Interpose(3, keep_first=1, keep_last=2), (0, 1, 1, 1, 2, 3)),
        (Interpose(num_layers=6), (0, 0, 1, 2, 2, 3)),
        (Interpose(num_layers=5, keep_first=1, keep_last=1), (0, 1, 1, 2, 3)),
        (Stack(3), (0, 1, 2, 3) * 3),
        (Stack(2, keep_first=1), (0, 1, 2, 3, 1, 2, 3)),
        (Stack(2, keep_last=1), (0, 1, 2, 0, 1, 2, 3)),
        (Stack(3, keep_first=1, keep_last=1), (0, 1, 2, 1, 2, 1, 2, 3)),
        (Stack(num_layers=6), (0, 1, 2, 3, 0, 1)),
        (Layers([3, 0, 0]), (3, 0, 0)),
        (Solar(1), (0, 1, 2, 1, 2, 3)),
        (InsertEvery(2), (0, 1, 1, 2, 3, 3)),
        (InsertEvery(3), (0, 1, 2, 2, 3)),
        (Middle(2), (0, 1, 2, 1, 2, 3)),
        (Middle(2, times=2), (0, 1, 2, 1, 2, 1, 2, 3)),
        (Middle(1), (0, 1, 1, 2, 3)),
        (Interpolate(), (0, 0, 1, 1, 2, 2, 3)),
        (DropLayers([1, 2]), (0, 3)),
    ],
    ids=str,
)
def test_layers_of_four(operator, expected):
    assert layers(operator, 4) == expected


@pytest.mark.parametrize("operator", [Interpose(2), Stack(2), Solar(1), DropLayers([0])], ids=str)
def test_layers_behind_the_last_one_stay_single_at_the_end(operator):
    class Tail(Shape):
        num_layers = 4

    found = operator.sources(Tail((2,) * 6, num_tail_layers=2), Facts())
    assert found.layers == (*layers(operator, 4), 4, 5) and found.num_layers == 6


def test_solar_grows_32_layers_to_48():
    assert layers(Solar(8), 32) == (*range(24), *range(8, 32))
    assert layers(Stack(2, keep_first=8, keep_last=8), 32) == layers(Solar(8), 32)


def test_stack_keeps_dense_layers_in_front_single_where_a_config_can_say_nothing_else():
    shape = Shape((0, 2, 2), traits=frozenset({"dense prefix"}))
    assert Stack(2).sources(shape, Facts()).layers == (0, 1, 2, 1, 2)
    assert Stack(2, keep_first=0).sources(shape, Facts()).layers == (0, 1, 2, 0, 1, 2)
    assert "dense layers in front stay single" in Stack(2).label(shape, shape)
    assert Stack(2).sources(Shape((0, 2, 2)), Facts()).layers == (0, 1, 2, 0, 1, 2)
    all_dense = Shape((0, 0, 0), traits=shape.traits)
    assert Stack(2).sources(all_dense, Facts()).layers == (0, 1, 2, 0, 1, 2)


def test_a_new_layer_is_the_mean_of_its_neighbours():
    found = Interpolate(0.25).sources(Shape((2, 2, 2)), Facts())
    assert found.blends == {1: ((0, 0.75), (1, 0.25)), 3: ((1, 0.75), (2, 0.25))}
    assert Interpolate().sources(Shape((0, 2, 2)), Facts()).blends.keys() == {3}, "not of a dense layer and experts"


@given(st.integers(1, 40), st.integers(2, 5), st.data())
def test_kept_layers_once_all_others_as_often_as_the_factor(num_layers, factor, data):
    keep_first = data.draw(st.integers(0, num_layers - 1))
    keep_last = data.draw(st.integers(0, num_layers - 1 - keep_first))
    for kind in (Interpose, Stack):
        found = layers(kind(factor, keep_first=keep_first, keep_last=keep_last), num_layers)
        for i in range(num_layers):
            kept = i < keep_first or i >= num_layers - keep_last
            assert found.count(i) == (1 if kept else factor)
        assert found[:keep_first] == tuple(range(keep_first))
        assert found[len(found) - keep_last :] == tuple(range(num_layers - keep_last, num_layers))


@given(st.integers(1, 20), st.integers(0, 40))
def test_any_depth_is_reached_with_copies_spread_evenly(num_layers, more):
    for kind in (Interpose, Stack):
        found = layers(kind(num_layers=num_layers + more), num_layers)
        counts = [found.count(i) for i in range(num_layers)]
        assert len(found) == num_layers + more and max(counts) - min(counts) <= 1
    found = layers(Interpose(num_layers=num_layers + more), num_layers)
    assert list(found) == sorted(found)


@pytest.mark.parametrize("kind", [Interpose, Stack])
@given(size=st.integers(1, 9), first=st.integers(2, 3), second=st.integers(2, 3))
def test_growing_twice_is_growing_once_by_the_product(kind, size, first, second):
    once = layers(kind(first), size)
    assert tuple(once[i] for i in layers(kind(second), len(once))) == layers(kind(first * second), size)


# --- experts ---


@given(st.integers(1, 20), st.integers(0, 50))
def test_copies_of_experts_are_spread_evenly(count, more):
    times = spread(count, count + more)
    assert sum(times) == count + more and max(times) - min(times) <= 1 and min(times) >= 1
    for order in ("interleaved", "appended"):
        found = experts(DuplicateExperts(num_experts=count + more, order=order), count)
        assert [found.count(e) for e in range(count)] == times
    assert found[:count] == tuple(range(count)), "copies behind the originals"


def test_copies_go_where_they_are_worth_most():
    assert by_utility([1.0, 4.0, 2.0], 6, most=3) == [1, 3, 2]
    assert by_utility([1.0, 100.0, 2.0], 6, most=3) == [1, 3, 2], "no more than three of one"
    assert by_utility([1.0, 1.0], 3, most=2) == [2, 1], "the first of equals"
    assert by_utility([5.0, 4.0], 4, most=3) == [2, 2], "what copies share among them"
    with pytest.raises(ValueError, match="more than max_copies 2"):
        by_utility([1.0, 1.0], 5, most=2)
    facts = Facts({"gradient": lambda: [[0.0, 5.0]]})
    assert experts(DuplicateExperts(num_experts=4, by="gradient"), 2, facts) == (0, 1, 1, 1)
    with pytest.raises(ValueError, match="'gradient' cannot be measured of a folder, only norm"):
        experts(DuplicateExperts(by="gradient"), 2, Facts({"norm": list}, "of a folder"))


def test_experts_that_are_routed_in_groups_are_added_as_whole_groups():
    grouped = frozenset({"grouped routing"})
    assert experts(DuplicateExperts(), 4, traits=grouped) == (0, 1, 2, 3, 0, 1, 2, 3)
    for operator in (DuplicateExperts(order="interleaved"), DuplicateExperts(num_experts=6)):
        with pytest.raises(ValueError, match="whole groups"):
            experts(operator, 4, traits=grouped)


def test_the_best_experts_are_kept_in_their_order():
    facts = Facts({"load": lambda: [[1.0, 9.0, 5.0, 5.0]]})
    assert experts(PruneExperts(2, by="load", top_k=1), 4, facts) == (1, 2)
    assert experts(PruneExperts(3, by="load"), 4, facts) == (1, 2, 3)


# --- widths ---


def test_a_copy_of_a_key_head_gets_a_whole_group_of_queries():
    class Heads(Shape):
        def size(self, axis, layer=None):
            return {"H": 4, "G": 2}[axis]

    maps = WidenHeads(2).maps(Heads((2,)))
    assert maps["H"].sources == (0, 1, 0, 1, 2, 3, 2, 3) and maps["G"].sources == (0, 0, 1, 1)
    assert WidenHeads(2, kv_heads=False).maps(Heads((2,))).keys() == {"H"}


def test_inner_channels_are_copied_again_and_again():
    assert WidenInner(size=8).maps(Shape((2,), hidden=3))["F"].sources == (0, 1, 2, 0, 1, 2, 0, 1)
    assert WidenHidden(3).maps(Shape((2,), hidden=2))["D"].sources == (0, 1) * 3


# --- mistakes ---

MISTAKES = {
    "factor": (lambda: Interpose(1), "factor must be at least 2"),
    "both": (lambda: Stack(2, num_layers=9), "either factor or num_layers"),
    "negative": (lambda: Interpose(2, keep_last=-1), "keep_last must not be negative"),
    "shallower": (lambda: layers(Interpose(num_layers=2), 3), "less than the model's 3: use DropLayers"),
    "nothing left": (lambda: layers(Stack(2, keep_first=2, keep_last=1), 3), "nothing to copy of 3 layers"),
    "seam": (lambda: layers(Solar(2), 4), "must lie in 0..1"),
    "every": (lambda: layers(InsertEvery(5), 4), "nothing would be copied"),
    "block": (lambda: layers(Middle(5), 4), "more than the model's 4 layers"),
    "weight": (lambda: Interpolate(1.0), "between 0 and 1"),
    "drop": (lambda: layers(DropLayers([4]), 4), "must be some of the layers 0..3"),
    "all dropped": (lambda: layers(DropLayers([0, 1]), 2), "no layer would be left of 2"),
    "noise": (lambda: DuplicateExperts(noise=float("nan")), "noise must be a finite number"),
    "fewer experts": (lambda: experts(DuplicateExperts(num_experts=3), 4), "use PruneExperts"),
    "share": (lambda: DuplicateExperts(redraw=2.0), "0..1"),
    "top-k": (lambda: DuplicateExperts(top_k="most"), "top_k must be scale, keep or a number, got 'most'"),
    "choice": (lambda: DuplicateExperts(by="luck"), "by must be one of None, norm, gradient"),
    "granularity": (lambda: Upcycle(4, granularity=3), "must divide num_experts 4"),
    "top_k": (lambda: Upcycle(4, top_k=5), "1..num_experts"),
    "not dense": (
        lambda: layers(Upcycle(4, in_layers=[7]), 3),
        r"in_layers must be some of the dense layers \[0, 1, 2\], got \[7\]",
    ),
    "no inner": (lambda: WidenInner(size=2).maps(Shape((2,), hidden=3)), "cannot grow to 2"),
    "more experts": (lambda: experts(PruneExperts(9), 4), "9 leaves nothing out of 4 experts"),
    "symmetry": (
        lambda: WidenHidden(2, symmetry_break=-1.0),
        "symmetry_break must be a finite number and not negative",
    ),
    "nothing to tell apart": (lambda: DuplicateExperts(symmetry_break=0.1, copies="draw"), "copies: draw makes none"),
    "factor and size": (lambda: WidenInner(factor=2, size=9), "either factor or size"),
}


@pytest.mark.parametrize("name", operators.__all__)
def test_every_argument_has_a_type_that_a_configuration_is_held_to(name):
    """Annotations that jsonargparse cannot evaluate are strings to it, and it takes any value for them."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--operator", type=Operator)
    for field in fields(getattr(operators, name)):
        values = {"class_path": name, "init_args": {field.name: {"no": "such thing"}}}
        with pytest.raises(ArgumentError, match=f'Parser key "{field.name}"'):
            parser.parse_object({"operator": values})


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_sentence(mistake):
    make, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_every_operator_says_what_it_is():
    for name in operators.__all__:
        kind = getattr(operators, name)
        assert kind.__doc__ and kind.axes, name
