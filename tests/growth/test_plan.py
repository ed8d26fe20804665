"""Plans are made from shapes alone, and say which place of a grown model is an original and which a copy."""

import pytest
from helpers import configs, plan_of, tiny
from hypothesis import given
from hypothesis import strategies as st
from maps import Shape

from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.facts import Facts, Unmeasured
from lit_recycle.growth.operators import DuplicateExperts, Interpose, PruneExperts, PruneInner
from lit_recycle.growth.plan import plan_growth
from lit_recycle.growth.sources import AxisMap, SourceMap


def grown_config(config, depth, width):
    return plan_of(config, depth, width).after.config


def test_the_first_place_of_a_source_is_the_original():
    mapped = AxisMap(2, (0, 1, 0, 0))
    assert mapped.copies == (False, False, True, True)
    assert mapped.multiplicities == (3, 1, 3, 3)
    assert mapped.originals == (0, 1, 0, 0)
    assert SourceMap((1, 0, 1, 0), 2).layer_copies == (False, False, True, True)


@pytest.mark.parametrize("sources", [(), (0, 2), (-1,)])
def test_a_map_names_entries_that_there_are(sources):
    with pytest.raises(ValueError, match=r"must name sources 0\.\.1"):
        AxisMap(2, sources)


def test_only_maps_that_change_something_are_carried_out():
    maps = (AxisMap.identity(2), AxisMap(2, (0, 0, 1, 1)), None)
    sources = SourceMap.identity(3, {"E": maps})
    assert [sources.axis("E", j) for j in range(3)] == [None, maps[1], None]
    assert sources.full_axis("E", 0) == maps[0] and sources.axis("E", None) is None and sources.axis("F", 0) is None


@given(st.data())
def test_a_map_survives_being_written_down(data):
    layers = tuple(data.draw(st.lists(st.integers(0, 2), min_size=1, max_size=4)))
    one = st.builds(lambda s: AxisMap(4, tuple(s)), st.lists(st.integers(0, 3), min_size=1, max_size=5))
    each = st.tuples(*[st.none() | one for _ in layers]).filter(any)
    axes = data.draw(st.dictionaries(st.sampled_from("DEF"), one | each))
    sources = SourceMap(layers, 3, axes, {0: ((0, 0.5), (1, 0.5))})
    assert SourceMap.from_dict(sources.to_dict()) == sources


def test_operators_follow_each_other():
    plan = plan_growth(Shape((0, 2, 3)), [Interpose(2), DuplicateExperts(2, top_k=1)], seed=3, event=4)
    deep, wide = (step.sources for step in plan.steps)
    assert deep.layers == (0, 0, 1, 1, 2, 2) and wide.layers == tuple(range(6))
    pairs, triples = AxisMap(2, (0, 0, 1, 1)), AxisMap(3, (0, 0, 1, 1, 2, 2))
    assert wide.axes["E"] == (None, None, pairs, pairs, triples, triples)
    assert [step.key for step in plan.steps] == [(3, 4, 0), (3, 4, 1)]
    assert plan.label == "depth ×2 and experts ×2"


def test_recorded_maps_are_followed():
    operators = [Interpose(2), DuplicateExperts(2, top_k=1)]
    maps = plan_growth(Shape((2, 2)), operators).maps()
    maps[1]["axes"]["E"]["sources"] = [1, 0, 0, 1]
    again = plan_growth(Shape((2, 2)), operators, maps=maps)
    assert again.maps() == maps
    with pytest.raises(ValueError, match="1 recorded maps do not belong to 2 operators"):
        plan_growth(Shape((2, 2)), operators, maps=maps[:1])


@pytest.mark.parametrize("by", ["load", "gradient", "norm_gradient", "activation"])
def test_an_operator_that_chooses_by_a_run_stands_first(by):
    chooses = {
        "load": PruneExperts(1, by="load"),
        "activation": PruneInner(1, "experts", by="activation"),
    }.get(by) or DuplicateExperts(num_experts=3, by=by, top_k=1)
    with pytest.raises(ValueError, match=r"cannot be measured behind other operators of its event.*: list it first"):
        plan_growth(Shape((2, 2), hidden=4), [Interpose(2), chooses], facts=Unmeasured)
    assert plan_growth(Shape((2, 2), hidden=4), [chooses, Interpose(2)], facts=Unmeasured).after.num_layers == 4


def test_norms_are_known_behind_other_operators_where_weights_are_at_hand():
    chooses = DuplicateExperts(num_experts=3, by="norm", top_k=1)
    assert plan_growth(Shape((2, 2)), [Interpose(2), chooses], facts=Unmeasured).after.experts == (3,) * 4
    of_a_folder = Facts({"norm": lambda: [[1.0, 2.0]] * 2}, "of a folder")
    with pytest.raises(
        ValueError, match=r"'norm' cannot be measured of a folder behind other .* nothing: list it first"
    ):
        plan_growth(Shape((2, 2)), [Interpose(2), chooses], facts=lambda _: of_a_folder)


def test_growth_of_experts_that_there_are_none_of_is_refused():
    with pytest.raises(ValueError, match="DuplicateExperts: the model has no routed experts to copy"):
        grown_config(tiny(dense_layers=[0, 1, 2], dense_size=8), None, Width())


def test_dense_layers_follow_their_copies():
    config = tiny(dense_layers=[0], dense_size=8)
    assert grown_config(config, Depth(), None).dense_layers == (0, 1)
    assert grown_config(config, Depth(method="stack"), None).dense_layers == (0, 3)
    assert grown_config(config, Depth(layers=[2, 0, 1, 0]), None).dense_layers == (1, 3)


@pytest.mark.parametrize(
    ("router_score", "normalize_top_k", "top_k", "scaling"),
    [
        ("softmax", True, "scale", 3.0),
        ("softmax", False, "scale", 3.0),
        ("sigmoid", True, "scale", 3.0),
        ("sigmoid", False, "scale", 1.5),
        ("sigmoid", False, "keep", 3.0),
    ],
)
def test_only_sigmoid_scores_that_add_up_are_scaled_down(router_score, normalize_top_k, top_k, scaling):
    config = tiny(router_score=router_score, normalize_top_k=normalize_top_k, routed_scaling=3.0)
    target = grown_config(config, None, Width(top_k=top_k))
    assert target.routed_scaling == scaling
    assert target.top_k == (4 if top_k == "scale" else 2)


@given(configs(), st.integers(2, 3), st.integers(2, 3), st.sampled_from(["interposition", "stack"]))
def test_the_order_of_axes_does_not_change_the_shape(config, deep, wide, method):
    depth, width = Depth(factor=deep, method=method), Width(factor=wide)
    at_once = grown_config(config, depth, width)
    assert grown_config(grown_config(config, depth, None), None, width) == at_once
    assert grown_config(grown_config(config, None, width), depth, None) == at_once
    untouched = {"num_layers", "dense_layers", "num_experts", "top_k", "routed_scaling"}
    before, after = config.to_dict(), at_once.to_dict()
    assert {k: v for k, v in before.items() if k not in untouched} == {
        k: v for k, v in after.items() if k not in untouched
    }
