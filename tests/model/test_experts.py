"""Routing and experts, against loops over tokens."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_equal_to_rounding, built, configs, tiny
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lit_recycle.model.experts import MoE
from lit_recycle.model.kernels.experts import swiglu_experts
from lit_recycle.model.kernels.grouped import group_by_expert


def a_moe(config, seed=0) -> MoE:
    return built(config.replace(dense_layers=(), dense_size=0, num_layers=1), seed).layers[0].moe


def hidden_states(config, batch=3, length=5, seed=0, dtype=torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, length, config.hidden_size, generator=generator, dtype=dtype)


def swiglu(x: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    gate, up = (gate_up @ x).chunk(2)
    return down @ (gate / (1 + (-gate).exp()) * up)


def slow_moe(moe: MoE, x_D: Tensor) -> tuple[Tensor, list[int]]:
    """One token: its output, and the experts that it visits."""
    config = moe.router.config
    logits = [(row @ x_D).item() for row in moe.router.weight]
    exp = torch.tensor(logits, dtype=torch.float64).exp()
    scores = exp / exp.sum() if config.router_score == "softmax" else exp / (1 + exp)
    biased = scores if moe.router.balance_bias is None else scores + moe.router.balance_bias
    chosen = sorted(range(len(logits)), key=lambda e: -biased[e])[: config.top_k]
    total = sum(scores[e] for e in chosen) if config.normalize_top_k else 1.0
    y_D = torch.zeros_like(x_D)
    for e in chosen:
        weight = config.routed_scaling * scores[e] / total
        y_D = y_D + weight * swiglu(x_D, moe.experts.gate_up[e], moe.experts.down[e])
    if moe.shared is not None:
        shared = swiglu(x_D, moe.shared.gate_up.weight, moe.shared.down.weight)
        gate = 1.0 if moe.shared_gate is None else 1 / (1 + (-(moe.shared_gate.weight @ x_D)).exp())
        y_D = y_D + gate * shared
    return y_D, chosen


@given(configs(), st.integers(0, 2**32))
@torch.no_grad()
def test_every_token_gets_its_top_k_experts(config, seed):
    moe = a_moe(config, seed)
    x = hidden_states(config, seed=seed)
    found, routing = moe(x)
    slow = [slow_moe(moe, token) for token in x.flatten(0, 1)]
    torch.testing.assert_close(found.flatten(0, 1), torch.stack([y for y, _ in slow]), rtol=1e-10, atol=1e-12)
    counts = torch.bincount(torch.tensor([chosen for _, chosen in slow]).flatten(), minlength=config.num_experts)
    assert torch.equal(routing.counts_E, counts.float())


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_routing_statistics(score):
    moe = a_moe(tiny(router_score=score, num_experts=5, top_k=3))
    x_TD = hidden_states(tiny()).flatten(0, 1)
    _, _, routing = moe.router(x_TD)
    logits_TE = x_TD @ moe.router.weight.T
    scores_TE = logits_TE.softmax(-1) if score == "softmax" else logits_TE.sigmoid()
    expected = (scores_TE / scores_TE.sum(-1, keepdim=True)).mean(0)
    assert_equal_to_rounding(routing.scores_E, expected)
    assert_equal_to_rounding(routing.z, logits_TE.exp().sum(-1).log().square().mean())
    assert routing.counts_E.dtype == torch.float32 and routing.counts_E.sum() == len(x_TD) * 3
    assert routing.scores_E.sum().item() == pytest.approx(1.0)
    (gradient,) = torch.autograd.grad(routing.scores_E[0], moe.router.weight)
    assert gradient.any()


def test_the_balancing_bias_chooses_and_does_not_weigh():
    config = tiny(balance_bias=True, top_k=1, normalize_top_k=False)
    moe, x_TD = a_moe(config), hidden_states(config).flatten(0, 1)
    moe.router.balance_bias.copy_(torch.tensor([0.0, 100.0, 0.0]))
    weights_TK, chosen_TK, _ = moe.router(x_TD)
    assert (chosen_TK == 1).all()
    assert_equal_to_rounding(weights_TK[:, 0], (x_TD @ moe.router.weight.T).softmax(-1)[:, 1])


def test_the_balancing_bias_is_no_parameter():
    moe = a_moe(tiny(balance_bias=True))
    assert "router.balance_bias" in moe.state_dict()
    assert "router.balance_bias" not in dict(moe.named_parameters())


@given(configs(), st.integers(0, 2**32))
def test_gradients_are_those_of_the_loop(config, seed):
    """For tokens, experts and router."""
    moe = a_moe(config, seed)
    x = hidden_states(config, 1, 4, seed).requires_grad_()
    wanted = [x, moe.experts.gate_up, moe.experts.down]
    found = torch.autograd.grad(moe(x)[0].sin().sum(), wanted)
    slow = torch.stack([slow_moe_with_routing_gradient(moe, token) for token in x[0]])
    expected = torch.autograd.grad(slow.sin().sum(), wanted)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def slow_moe_with_routing_gradient(moe: MoE, x_D: Tensor) -> Tensor:
    config, (_, chosen) = moe.router.config, slow_moe(moe, x_D)
    logits = moe.router.weight @ x_D
    scores = logits.softmax(0) if config.router_score == "softmax" else logits.sigmoid()
    weights = scores[chosen] / (scores[chosen].sum() if config.normalize_top_k else 1.0) * config.routed_scaling
    experts = [swiglu(x_D, moe.experts.gate_up[e], moe.experts.down[e]) for e in chosen]
    y_D = sum(w * y for w, y in zip(weights, experts, strict=True))
    if moe.shared is None:
        return y_D
    gate = 1.0 if moe.shared_gate is None else (moe.shared_gate.weight @ x_D).sigmoid()
    return y_D + gate * swiglu(x_D, moe.shared.gate_up.weight, moe.shared.down.weight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_experts_without_tokens_have_gradients_of_zero(dtype):
    """Zero, not nothing and not whatever the memory held; with neighbours empty too, at both ends and between."""
    config = tiny(num_experts=6, top_k=1, hidden_size=16, expert_size=8)
    experts = a_moe(config).experts.to(dtype)
    x_TD = hidden_states(config, dtype=dtype).flatten(0, 1)
    chosen_TK = torch.tensor([1, 4]).repeat(8)[: len(x_TD)].unsqueeze(-1)
    counts_E = torch.bincount(chosen_TK.flatten(), minlength=6).float()
    junk = [torch.full_like(experts.gate_up, float("nan")) for _ in range(4)]  # for the allocator to hand out again
    del junk
    experts(x_TD, torch.ones_like(chosen_TK, dtype=dtype), chosen_TK, counts_E).sum().backward()
    for gradient in (experts.gate_up.grad, experts.down.grad):
        used = gradient.flatten(1).abs().amax(1) > 0
        assert used.tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_float32_is_float64_to_rounding(top_k):
    config = tiny(
        num_experts=5, top_k=top_k, hidden_size=16, expert_size=12, shared_expert_size=4, normalize_top_k=False
    )
    exact = a_moe(config)
    x = hidden_states(config)
    y, _ = exact(x)
    expected = torch.autograd.grad(y.square().sum(), list(exact.parameters()))
    single = a_moe(config).float()
    y_single, _ = single(x.float())
    found = torch.autograd.grad(y_single.square().sum(), list(single.parameters()))
    torch.testing.assert_close(y_single.double(), y, rtol=1e-5, atol=1e-5)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-5, atol=1e-5 * float(b.abs().max()))


def test_experts_under_autocast_compute_in_its_type():
    experts = a_moe(tiny(hidden_size=16, expert_size=8)).experts.float()
    x_TD = torch.randn(6, 16, requires_grad=True)
    chosen_TK = torch.tensor([[0, 2], [2, 1], [0, 1], [1, 0], [2, 0], [0, 2]])
    counts_E = torch.bincount(chosen_TK.flatten(), minlength=3)
    weights_TK = torch.rand(6, 2)
    with torch.autocast("cpu", torch.bfloat16):
        found = experts(x_TD, weights_TK, chosen_TK, counts_E)
    assert found.dtype == torch.bfloat16
    expected = experts(x_TD, weights_TK, chosen_TK, counts_E)
    wanted = [x_TD, experts.gate_up, experts.down]
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05 * float(expected.abs().max()))
    for half, full in zip(
        torch.autograd.grad(found.sum(), wanted), torch.autograd.grad(expected.sum(), wanted), strict=True
    ):
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, full, rtol=0.05, atol=0.05 * float(full.abs().max()))


def test_gradients_by_finite_differences():
    """Tokens, weights and both matrices; experts without tokens among them."""
    experts = a_moe(tiny(num_experts=4, hidden_size=4, expert_size=3)).experts
    chosen_TK = torch.tensor([[0, 3], [3, 1], [0, 1]])
    counts_E = torch.bincount(chosen_TK.flatten(), minlength=4)
    x_TD = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    weights_TK = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)

    def run(x_TD: Tensor, weights_TK: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        groups = group_by_expert(chosen_TK, counts_E, x_TD.dtype)
        return swiglu_experts(x_TD, weights_TK, gate_up, down, groups)

    assert torch.autograd.gradcheck(run, (x_TD, weights_TK, experts.gate_up, experts.down))


def test_frozen_experts_let_gradients_through():
    experts = a_moe(tiny()).experts.requires_grad_(False)
    x_TD = hidden_states(tiny()).flatten(0, 1).requires_grad_()
    chosen_TK = torch.arange(len(x_TD)).unsqueeze(1) % 3
    experts(x_TD, torch.ones(len(x_TD), 1), chosen_TK, torch.bincount(chosen_TK.flatten())).sum().backward()
    assert x_TD.grad.any()
    assert experts.gate_up.grad is None and experts.down.grad is None


def test_the_router_computes_in_float32_under_autocast():
    moe = a_moe(tiny()).float()
    x_TD = hidden_states(tiny()).flatten(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        weights_TK, _, routing = moe.router(x_TD.bfloat16())
    assert weights_TK.dtype == routing.scores_E.dtype == torch.float32
    exact = F.linear(x_TD.bfloat16().float(), moe.router.weight).softmax(-1).mean(0)
    torch.testing.assert_close(routing.scores_E, exact, rtol=1e-6, atol=1e-7)
