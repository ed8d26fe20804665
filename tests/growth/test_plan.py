"""Plans are made from shapes alone, and say which place of a grown model is an original and which a copy."""

import pytest
from helpers import configs, tiny
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.plan import GrowthPlan, grow_config, plan_growth


def test_the_first_place_of_a_source_is_the_original():
    plan = GrowthPlan(layers=(1, 0, 1, 0), experts=((0, 1, 0, 0),) * 4)
    assert [plan.is_layer_copy(j) for j in range(4)] == [False, False, True, True]
    assert [plan.is_expert_copy(2, e) for e in range(4)] == [False, False, True, True]
    assert [plan.multiplicity(2, e) for e in range(4)] == [3, 1, 3, 3]


def test_layers_grow_their_experts_only_where_the_map_changes_something():
    plan = GrowthPlan(layers=(0, 1, 2), experts=((0, 1), (0, 0, 1, 1), ()))
    assert [plan.grows_experts(j) for j in range(3)] == [False, True, False]


def test_a_plan_of_both_axes():
    plan = plan_growth([0, 2, 3], Depth(method="stack", zero_output=True), Width(noise=0.5), seed=3, event=4)
    pairs, triples = (0, 0, 1, 1), (0, 0, 1, 1, 2, 2)
    assert plan.layers == (0, 1, 2, 0, 1, 2)
    assert plan.experts == ((), pairs, triples, (), pairs, triples)
    assert (plan.zero_output, plan.noise, plan.seed, plan.event) == (True, 0.5, 3, 4)


def test_depth_growth_makes_no_noise_and_width_growth_zeroes_no_output():
    assert plan_growth([2, 2], Depth(), None).noise == 0.0
    assert not plan_growth([2, 2], None, Width()).zero_output


def test_experts_that_are_routed_in_groups_are_added_as_whole_groups():
    assert plan_growth([4], None, Width(), whole_groups=True).experts == ((0, 1, 2, 3, 0, 1, 2, 3),)


def test_a_bias_on_softmax_shares_shrinks_with_them():
    assert plan_growth([4], None, Width(factor=3), softmax_bias=True).balance_factor == 1 / 3
    assert plan_growth([4], None, Width(factor=3)).balance_factor == 1.0
    assert plan_growth([4], Depth(factor=3), None, softmax_bias=True).balance_factor == 1.0


def test_width_growth_of_a_dense_model_is_refused():
    with pytest.raises(ValueError, match="width growth duplicates routed experts"):
        grow_config(tiny(dense_layers=[0, 1, 2], dense_size=8), None, Width())


def test_dense_layers_follow_their_copies():
    config = tiny(dense_layers=[0], dense_size=8)
    assert grow_config(config, Depth(), None)[0].dense_layers == (0, 1)
    assert grow_config(config, Depth(method="stack"), None)[0].dense_layers == (0, 3)
    assert grow_config(config, Depth(layers=[2, 0, 1, 0]), None)[0].dense_layers == (1, 3)


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
    target, _ = grow_config(config, None, Width(top_k=top_k))
    assert target.routed_scaling == scaling
    assert target.top_k == (4 if top_k == "scale" else 2)


@given(configs(), st.integers(2, 3), st.integers(2, 3), st.sampled_from(["interposition", "stack"]))
def test_the_order_of_axes_does_not_change_the_shape(config, deep, wide, method):
    depth, width = Depth(factor=deep, method=method), Width(factor=wide)
    at_once = grow_config(config, depth, width)[0]
    assert grow_config(grow_config(config, depth, None)[0], None, width)[0] == at_once
    assert grow_config(grow_config(config, None, width)[0], depth, None)[0] == at_once
    untouched = {"num_layers", "dense_layers", "num_experts", "top_k", "routed_scaling"}
    before, after = config.to_dict(), at_once.to_dict()
    assert {k: v for k, v in before.items() if k not in untouched} == {
        k: v for k, v in after.items() if k not in untouched
    }
