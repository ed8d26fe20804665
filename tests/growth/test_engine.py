"""Tensors under growth: order of axes, what becomes of copies, noise, and memory."""

import pytest
import torch
from helpers import assert_same_tensors, built, configs, grown, grown_by, plan_of, tiny
from hypothesis import given
from hypothesis import strategies as st
from maps import is_layer_copy, plan_of_maps, source_of

from lit_recycle.growth.engine import grow_tensors
from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.names import Naming
from lit_recycle.growth.native import NATIVE
from lit_recycle.growth.operators import DuplicateExperts, Interpose

QUIET = Width(noise=0.0)
EXPERTS = ("moe.router.weight", "moe.experts.gate_up", "moe.experts.down")
WITH_EVERYTHING = dict(shared_expert_size=4, dense_layers=[1], dense_size=4, balance_bias=True)


# --- maps ---


@given(
    configs(),
    st.builds(
        Depth,
        factor=st.integers(2, 3),
        method=st.sampled_from(["interposition", "stack"]),
        keep_first=st.integers(0, 1),
        zero_output=st.booleans(),
    ),
    st.builds(Width, factor=st.integers(2, 3), noise=st.just(0.0), reset_balance=st.booleans()),
)
def test_depth_then_width_is_width_then_depth_is_both_at_once(config, depth, width):
    model = built(config)
    at_once = grown(model, depth, width)
    depth_first = grown(grown(model, depth), width=width)
    width_first = grown(grown(model, width=width), depth)
    assert depth_first.config == width_first.config == at_once.config
    assert_same_tensors(depth_first.state_dict(), width_first.state_dict())
    assert_same_tensors(at_once.state_dict(), width_first.state_dict())


@pytest.mark.parametrize("method", ["interposition", "stack"])
def test_doubling_the_depth_twice_is_making_it_four_times_as_deep(method):
    model = built(tiny(**WITH_EVERYTHING))
    twice = grown(grown(model, Depth(method=method)), Depth(method=method))
    once = grown(model, Depth(factor=4, method=method))
    assert twice.config == once.config
    assert_same_tensors(twice.state_dict(), once.state_dict())


def test_doubling_the_width_twice_is_making_it_four_times_as_wide():
    model = built(tiny(router_score="sigmoid", normalize_top_k=False, **WITH_EVERYTHING))
    twice = grown(grown(model, width=QUIET), width=QUIET)
    once = grown(model, width=Width(factor=4, noise=0.0))
    assert twice.config == once.config
    assert_same_tensors(twice.state_dict(), once.state_dict())


def test_every_tensor_of_a_layer_comes_from_the_layer_that_the_plan_names():
    model = built(tiny(qk_norm="head", qkv_bias=True, shared_expert_size=4, shared_expert_gate=True))
    layers = [2, 0, 2, 1]
    before, after = model.state_dict(), grown(model, Depth(layers=layers)).state_dict()
    assert len(after) == len(before) + len([n for n in before if n.startswith("layers.0.")])
    for j, i in enumerate(layers):
        for name in before:
            if name.startswith(f"layers.{i}."):
                assert torch.equal(after[name.replace(f"layers.{i}.", f"layers.{j}.")], before[name])


def test_experts_are_copied_in_place_and_shared_experts_are_not_duplicated():
    model = built(tiny(shared_expert_size=4))
    before, after = model.state_dict(), grown(model, width=Width(factor=3, noise=0.0)).state_dict()
    for name, tensor in before.items():
        duplicated = name.split(".", 2)[-1] in EXPERTS
        assert torch.equal(after[name], tensor[[0, 0, 0, 1, 1, 1, 2, 2, 2]] if duplicated else tensor)


def test_zeroed_outputs_are_zero_in_copies_alone():
    after = grown(built(tiny(**WITH_EVERYTHING)), Depth(zero_output=True), Width(noise=0.1)).state_dict()
    for name, tensor in after.items():
        place = NATIVE.parse(name)
        is_copy = place.layer is not None and place.layer % 2 == 1
        if is_copy and place.axes.writes_residual:
            assert not tensor.any(), name
        else:
            assert tensor.abs().flatten(1).amax(1).min() > 0 if tensor.dim() > 1 else tensor.any(), name


# --- the balancing bias ---


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_the_balancing_bias_is_copied_without_noise_or_zeroed(score):
    model = built(tiny(balance_bias=True, router_score=score))
    share = 1 / 3 if score == "softmax" else 1.0  # of a softmax share that is divided among duplicates
    for width, factor in ((Width(factor=3, noise=0.5), share), (Width(factor=3, noise=0.5, reset_balance=True), 0.0)):
        for before, after in zip(model.routers(), grown(model, width=width).routers(), strict=True):
            expected = before.balance_bias.repeat_interleave(3) * factor
            assert torch.equal(after.balance_bias, expected)


# --- memory ---


def storages(tensors) -> list[int]:
    return [tensor.untyped_storage().data_ptr() for tensor in tensors]


@pytest.mark.parametrize("depth", [Depth(), Depth(factor=3, method="stack"), Depth(zero_output=True)], ids=str)
@pytest.mark.parametrize("width", [None, QUIET, Width(noise=0.1)], ids=str)
def test_originals_are_not_copied_and_copies_share_memory_with_nobody(depth, width):
    model = built(tiny(**WITH_EVERYTHING))
    sources = dict(model.state_dict())
    plan = plan_of(model.config, depth, width)
    after = dict(grow_tensors(plan, dict(sources)))
    assert len(set(storages(after.values()))) == len(after)
    for name, tensor in after.items():
        place = NATIVE.parse(name)
        is_copy = is_layer_copy(plan, place.layer)
        gathered = width is not None and place.axes.expert_dimension is not None
        original = sources[source_of(plan, name, sources)]
        shares = tensor.untyped_storage().data_ptr() == original.untyped_storage().data_ptr()
        assert shares == (not is_copy and not gathered), name


def test_copied_experts_of_their_own_names_share_memory_with_nobody():
    naming = Naming(layers="layers", axes={"experts.{e}.down": "down: D+ F*"})
    plan = plan_of_maps([0], [(0, 0, 1, 1)], naming=naming)
    sources = {f"layers.0.experts.{e}.down": torch.ones(2, 2) * e for e in range(2)}
    after = dict(grow_tensors(plan, dict(sources)))
    assert len(set(storages(after.values()))) == 4
    assert after["layers.0.experts.0.down"] is sources["layers.0.experts.0.down"]
    assert after["layers.0.experts.2.down"] is sources["layers.0.experts.1.down"]


@pytest.mark.parametrize("method", ["interposition", "stack"])
def test_a_source_is_let_go_after_its_last_use(method):
    model = built(tiny(**WITH_EVERYTHING))
    sources = dict(model.state_dict())
    plan = plan_of(model.config, Depth(method=method), QUIET)
    *_, last = plan.recipes(sources)
    left = [source_of(plan, recipe.target.name, list(model.state_dict())) for recipe in last]
    assert set(left) == set(sources)
    for _ in grow_tensors(plan, sources):
        left.pop(0)
        assert set(sources) == set(left), "exactly those that are still needed"
    assert not sources


def test_what_a_later_operator_copies_is_made_once():
    """Experts with noise, then copied with their layer: the same noise, in memory of their own."""
    model = built(tiny())
    after = grown_by(model, DuplicateExperts(noise=0.5), Interpose(2)).state_dict()
    a, b = (after[f"layers.{j}.moe.experts.down"] for j in (2, 3))
    assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()
    assert not torch.equal(a[0], a[1])
