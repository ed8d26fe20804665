"""Every axis: what a growth leaves as it was, and the one rule of gradients, in float64 over random shapes."""

import pytest
import torch
from helpers import assert_equal_to_rounding, built, configs, gradients, grown_by, loss, tiny, tokens
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.optim import AdamW

from lit_recycle.growth.axes import parse_axes
from lit_recycle.growth.native import NativeModel
from lit_recycle.growth.operators import (
    DuplicateExperts,
    Interpose,
    Upcycle,
    WidenHeads,
    WidenHidden,
    WidenInner,
)
from lit_recycle.growth.optimizer import grow_optimizer_state
from lit_recycle.growth.plan import plan_growth

FACTORS = st.integers(2, 3)
BREAKS = st.sampled_from([0.0, 0.3])
WIDENINGS = st.one_of(
    st.builds(WidenInner, st.just("experts"), FACTORS, symmetry_break=BREAKS),
    st.builds(WidenInner, st.just("experts"), size=st.integers(7, 13), symmetry_break=BREAKS),
    st.builds(WidenInner, st.just("shared"), size=st.integers(7, 13), symmetry_break=BREAKS),
    st.builds(WidenInner, st.just("dense"), size=st.integers(7, 13), symmetry_break=BREAKS),
    st.builds(WidenHeads, FACTORS, st.booleans(), symmetry_break=BREAKS),
    st.builds(WidenHidden, FACTORS, symmetry_break=BREAKS),
    st.builds(DuplicateExperts, FACTORS, noise=st.just(0.0), symmetry_break=BREAKS),
)


def fitting(operators, config):
    """Whether a model has what the operators widen."""
    wanted = {op.networks for op in operators if isinstance(op, WidenInner)}
    has = {"experts": True, "shared": bool(config.shared_expert_size), "dense": bool(config.dense_layers)}
    hidden = any(isinstance(op, WidenHidden) for op in operators)
    inner = [op for op in operators if isinstance(op, WidenInner)]
    if any(op.size for op in inner) and len(wanted) < len(inner):
        return False  # the size may be less than what the other one has made
    return all(has[name] for name in wanted) and not (hidden and config.tie_embeddings)


def logits(model, tokens_BS):
    with torch.no_grad():
        return model(tokens_BS)[0]


@settings(max_examples=80)
@given(configs(), st.lists(WIDENINGS, min_size=1, max_size=3), st.integers(0, 2**32))
def test_a_growth_in_width_leaves_the_logits(config, operators, seed):
    assume(fitting(operators, config))
    model, text = built(config, seed), tokens(config, seed=seed)
    plan = plan_growth(NativeModel(config), operators)
    assert plan.preserves
    assert_equal_to_rounding(logits(grown_by(model, *operators, seed=seed), text), logits(model, text))


def expected_gradient(plan, name, gradient):
    """By the rule: along what is produced each copy has its share, along what is summed over the whole."""
    for step in plan.steps:
        axes = step.before.naming.parse(name).axes
        layer = step.before.naming.parse(name).layer
        for i, dimension in enumerate(axes.dimensions):
            for axis in dimension.factors:
                mapped = step.sources.axis(axis, layer) if isinstance(axis, str) else None
                if mapped is None:
                    continue
                index = dimension.indices(axis, mapped.size, mapped.sources, gradient.shape[i])
                gradient = gradient.index_select(i, torch.tensor(index))
                if not dimension.summed:
                    shares = dimension.repeated(axis, [1 / m for m in mapped.multiplicities], gradient.shape[i])
                    shape = [-1 if j == i else 1 for j in range(gradient.dim())]
                    gradient = gradient * torch.tensor(shares, dtype=torch.float64).view(shape)
    return gradient


@settings(max_examples=60)
@given(configs(), st.lists(WIDENINGS, min_size=1, max_size=3), st.integers(0, 2**32))
def test_each_copy_of_what_is_produced_has_its_share_of_the_gradient(config, operators, seed):
    assume(fitting(operators, config))
    assume(all(getattr(op, "symmetry_break", 0.0) == 0 for op in operators))
    model, text = built(config, seed), tokens(config, seed=seed)
    plan = plan_growth(NativeModel(config), operators)
    before, after = gradients(model, text), gradients(grown_by(model, *operators), text)
    scale = max(gradient.abs().max() for gradient in before.values())
    for name, gradient in before.items():
        assert_equal_to_rounding(after[name], expected_gradient(plan, name, gradient), scale)


def test_the_next_updates_of_a_widened_model_are_those_of_the_model():
    """Carried moments describe the new gradient: on what is produced AdamW goes on as if nothing had happened."""
    config = tiny(shared_expert_size=3, dense_layers=[0], dense_size=5, qk_norm="full", num_heads=4, num_kv_heads=2)
    operators = [WidenInner(size=9), WidenInner("dense", size=7), WidenHeads(2)]
    model, text = built(config), tokens(config)
    optimizer = AdamW(model.parameters(), lr=1e-4, eps=1e-40)
    for _ in range(3):
        optimizer.zero_grad()
        loss(model, text).backward()
        optimizer.step()
    states = {n: dict(optimizer.state[p]) for n, p in model.named_parameters()}
    plan = plan_growth(NativeModel(config), operators)
    carried = grow_optimizer_state(plan, states, "carry", "AdamW")
    moments = {n: optimizer.state[p]["exp_avg"] for n, p in model.named_parameters()}
    squares = {n: optimizer.state[p]["exp_avg_sq"] for n, p in model.named_parameters()}
    for name, state in carried.items():
        assert torch.allclose(state["exp_avg"], expected_gradient(plan, name, moments[name]), rtol=1e-12, atol=0)
        ones = expected_gradient(plan, name, torch.ones_like(squares[name]))
        whole = expected_gradient(plan, name, squares[name])
        assert torch.allclose(state["exp_avg_sq"], whole * ones, rtol=1e-12, atol=0), "second moments by the square"


def test_a_broken_symmetry_parts_copies_at_once():
    """Without it copies of a channel have the same gradient for ever."""
    config = tiny(expert_size=4)
    model, text = built(config), tokens(config, batch=4)
    for strength, alike in ((0.0, True), (0.2, False)):
        after = gradients(grown_by(model, WidenInner(factor=2, symmetry_break=strength)), text)
        halves = after["layers.1.moe.experts.gate_up"].view(3, 2, 2, 4, 8)
        assert torch.allclose(halves[:, :, 0], halves[:, :, 1], rtol=1e-9, atol=1e-15) == alike


def test_a_broken_symmetry_of_experts_parts_them_at_once():
    model, text = built(tiny()), tokens(tiny(), batch=4)
    for strength, alike in ((0.0, True), (0.2, False)):
        grown = grown_by(model, DuplicateExperts(3, noise=0.0, symmetry_break=strength))
        copies = gradients(grown, text)["layers.1.moe.experts.gate_up"].unflatten(0, (-1, 3))
        assert torch.allclose(copies[:, 0], copies[:, 1], rtol=1e-9, atol=1e-15) == alike
        down = grown.state_dict()["layers.1.moe.experts.down"].unflatten(0, (-1, 3))
        assert_equal_to_rounding(down.mean(1), model.state_dict()["layers.1.moe.experts.down"])
        assert torch.equal(down[:, 0], down[:, 2]) == alike


@pytest.mark.parametrize("order", ["interleaved", "appended"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_copies_of_experts_add_up_to_their_source_wherever_they_stand(order, dtype):
    """Also where some experts have more copies than others."""
    config = tiny(num_experts=3, expert_size=64, hidden_size=64)
    model = built(config).to(dtype)
    operator = DuplicateExperts(num_experts=8, top_k=4, noise=0.0, symmetry_break=0.25, order=order)
    (step,) = plan_growth(NativeModel(config), [operator]).steps
    sources = torch.tensor(step.sources.experts(0).sources)
    grown = grown_by(model, operator).state_dict()["layers.0.moe.experts.down"].double()
    before = model.state_dict()["layers.0.moe.experts.down"].double()
    rounding = 2 * torch.finfo(dtype).eps
    for expert in range(3):
        copies = grown[sources == expert]
        assert ((copies.mean(0) - before[expert]).abs() <= rounding * copies.abs().amax(0)).all()
        if len(copies) > 1:
            apart = (copies / before[expert] - 1).std(0, correction=1).square().mean().sqrt().item()
            assert apart == pytest.approx(0.25, rel=0.05), "the standard deviation of δ over copies"


def test_the_order_of_operators_along_different_axes_does_not_matter():
    model = built(tiny(shared_expert_size=3, num_heads=4, num_kv_heads=2))
    operators = [WidenHidden(2), WidenHeads(2), WidenInner(size=7), DuplicateExperts(2, noise=0.0), Interpose(2)]
    one = grown_by(model, *operators).state_dict()
    other = grown_by(model, *reversed(operators)).state_dict()
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert_equal_to_rounding(other[name], tensor)


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.booleans(), st.integers(0, 2**32))
def test_experts_of_a_dense_model_compute_what_it_did(granularity, copies, visited, balance, seed):
    top_k = granularity * min(visited, copies)
    config = tiny(
        num_experts=0, dense_layers=[0, 1, 2], dense_size=6, router_score="sigmoid" if balance else "softmax",
        balance_bias=balance,
    )  # fmt: skip
    model, text = built(config, seed), tokens(config, seed=seed)
    operator = Upcycle(granularity * copies, top_k, granularity, in_layers=[1, 2])
    after = grown_by(model, operator, seed=seed)
    assert after.config.expert_size == 6 // granularity and after.config.dense_layers == (0,)
    assert_equal_to_rounding(logits(after, text), logits(model, text))


def test_moments_of_experts_are_their_share_of_the_dense_network():
    config = tiny(num_experts=0, dense_layers=[0, 1, 2], dense_size=6)
    state = {"exp_avg": torch.randn(12, 8), "exp_avg_sq": torch.rand(12, 8), "step": torch.tensor(5.0)}
    down = {"exp_avg": torch.randn(8, 6), "exp_avg_sq": torch.rand(8, 6), "step": torch.tensor(5.0)}
    states = {"layers.1.mlp.gate_up.weight": dict(state), "layers.1.mlp.down.weight": dict(down)}
    plan = plan_growth(NativeModel(config), [Upcycle(4, granularity=2)])
    grown = grow_optimizer_state(plan, states, "carry", "AdamW")
    assert not any(value.any() for value in grown["layers.1.moe.router.weight"].values()), "it is new"
    gate, up = state["exp_avg"].chunk(2)
    found = grown["layers.1.moe.experts.gate_up"]["exp_avg"]
    for e in range(4):
        rows = slice(3 * (e % 2), 3 * (e % 2) + 3)
        assert torch.allclose(found[e], torch.cat([gate[rows], up[rows]]) / 2)
        # The slices' outputs are multiplied by two, and their gradients divided.
        columns = grown["layers.1.moe.experts.down"]
        assert torch.allclose(columns["exp_avg"][e], down["exp_avg"][:, rows] / 4)
        assert torch.allclose(columns["exp_avg_sq"][e], down["exp_avg_sq"][:, rows] / 16)


@pytest.mark.parametrize("policy", ["carry", "fresh_copies"])
def test_fresh_copies_of_channels_have_no_moments(policy):
    state = {"exp_avg": torch.ones(2, 4, 8), "step": torch.tensor(5.0)}
    config = tiny(num_experts=2, expert_size=2, num_layers=1)
    plan = plan_growth(NativeModel(config), [WidenInner(size=3)])
    grown = grow_optimizer_state(plan, {"layers.0.moe.experts.gate_up": state}, policy, "AdamW")
    (found,) = (s["exp_avg"] for s in grown.values())
    kept = [0.5, 1.0, 0.0 if policy == "fresh_copies" else 0.5]
    assert found[0, :, 0].tolist() == kept * 2


@pytest.mark.parametrize(
    ("text", "length", "expected"),
    [
        ("F", 3, [0, 1, 1]),
        ("([gate up] F)", 4, [0, 1, 1, 2, 3, 3]),
        ("(F [gate up])", 4, [0, 1, 2, 3, 2, 3]),
        ("(F P)", 6, [0, 1, 2, 3, 4, 5, 3, 4, 5]),
    ],
)
def test_an_axis_is_found_within_a_dimension(text, length, expected):
    (dimension,) = parse_axes(text).dimensions
    size = 3 if text == "F" else 2
    assert dimension.indices("F", size, [0, 1, 1], length) == expected


@pytest.mark.parametrize("text", ["(F", "F**", "([gate up F)", "F-1"])
def test_what_is_no_axis_string_is_refused(text):
    with pytest.raises(ValueError, match="is no axis string"):
        parse_axes(text)
