"""What a growth leaves as it was: logits and gradients in width, logits in depth with zeroed outputs."""

import pytest
import torch
from helpers import assert_equal_to_rounding, built, configs, gradients, grown, grown_by, tiny, tokens
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_recycle.growth.event import Depth, Width
from lit_recycle.growth.operators import DuplicateExperts
from lit_recycle.model.experts import Routing

FACTORS = st.integers(2, 3)
QUIET_DEPTHS = (
    Depth(zero_output=True),
    Depth(factor=3, zero_output=True),
    Depth(keep_first=1, keep_last=1, zero_output=True),
    Depth(method="stack", zero_output=True),
    Depth(factor=3, method="stack", keep_first=1, keep_last=1, zero_output=True),
    Depth(layers=[0, 1, 0, 2, 2, 1], zero_output=True),
)


def logits(model, tokens_BS):
    with torch.no_grad():
        return model(tokens_BS)[0]


@settings(max_examples=60)
@given(configs(), FACTORS, st.integers(0, 2**32))
def test_width_growth_without_noise_leaves_the_logits(config, factor, seed):
    model = built(config, seed)
    text = tokens(config, seed=seed)
    after = grown(model, width=Width(factor=factor, noise=0.0))
    assert (after.config.num_experts, after.config.top_k) == (factor * config.num_experts, factor * config.top_k)
    assert_equal_to_rounding(logits(after, text), logits(model, text))


@pytest.mark.parametrize("router_score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("normalize_top_k", [True, False])
@pytest.mark.parametrize("balance_bias", [True, False])
def test_width_growth_leaves_the_logits_of_every_routing_kind(router_score, normalize_top_k, balance_bias):
    config = tiny(
        router_score=router_score, normalize_top_k=normalize_top_k, balance_bias=balance_bias, routed_scaling=1.7
    )
    model, text = built(config), tokens(config, batch=8)
    for factor in (2, 3):
        after = grown(model, width=Width(factor=factor, noise=0.0))
        assert_equal_to_rounding(logits(after, text), logits(model, text))


def test_the_balancing_bias_of_the_examples_changes_the_choice():
    """Otherwise the tests above would pass with a balancing bias that growth handles wrongly."""
    for router_score in ("softmax", "sigmoid"):
        model = built(tiny(router_score=router_score, balance_bias=True))
        text = tokens(model.config, batch=8)
        before = model(text)[1].counts_E
        for router in model.routers():
            router.balance_bias.zero_()
        assert not torch.equal(model(text)[1].counts_E, before)


def test_width_growth_with_noise_changes_the_logits_a_little():
    model = built(tiny())
    text = tokens(model.config)
    before, after = logits(model, text), logits(grown(model, width=Width(noise=0.01)), text)
    assert 1e-5 < (after - before).abs().max() / before.abs().max() < 0.1


def test_keeping_top_k_changes_the_function():
    model = built(tiny())
    after = grown(model, width=Width(noise=0.0, top_k="keep"))
    assert (after.config.num_experts, after.config.top_k) == (6, 2)
    text = tokens(model.config)
    assert (logits(after, text) - logits(model, text)).abs().max() > 1e-3


@given(configs(), FACTORS, st.integers(0, 2**32))
def test_each_copy_has_its_share_of_the_gradient(config, factor, seed):
    model = built(config, seed)
    text = tokens(config, seed=seed)
    before = gradients(model, text)
    after = gradients(grown(model, width=Width(factor=factor, noise=0.0)), text)
    scale = max(gradient.abs().max() for gradient in before.values())
    assert list(after) == list(before)
    for name, gradient in before.items():
        if ".router." in name or ".experts." in name:
            gradient = gradient.repeat_interleave(factor, dim=0) / factor
        assert_equal_to_rounding(after[name], gradient, scale)


def test_every_expert_of_the_examples_has_a_gradient_to_share():
    """Otherwise the test above would compare zeros with zeros."""
    for name, gradient in gradients(built(tiny()), tokens(tiny(), batch=8)).items():
        if ".router." in name or ".experts." in name:
            assert gradient.abs().flatten(1).amax(1).min() > 1e-6, name


def balancing_loss(routing: Routing) -> torch.Tensor:
    """E · Σ f·P of each layer, with f the share of all assignments (Fedus et al. 2022)."""
    shares = routing.counts_E / routing.counts_E.sum(-1, keepdim=True)
    return routing.counts_E.shape[-1] * (shares * routing.scores_E).sum(-1)


@given(configs(), FACTORS, st.integers(0, 2**32))
def test_the_balancing_loss_does_not_notice_duplicates(config, factor, seed):
    model = built(config, seed)
    text = tokens(config, seed=seed)
    before, after = (m(text)[1] for m in (model, grown(model, width=Width(factor=factor, noise=0.0))))
    assert after.counts_E.sum() == factor * before.counts_E.sum()
    # counts are float32
    torch.testing.assert_close(balancing_loss(after), balancing_loss(before), rtol=1e-6, atol=0)
    torch.testing.assert_close(after.counts_E, before.counts_E.repeat_interleave(factor, -1), rtol=0, atol=0)
    torch.testing.assert_close(after.scores_E, before.scores_E.repeat_interleave(factor, -1) / factor)


@pytest.mark.parametrize("depth", QUIET_DEPTHS, ids=str)
def test_depth_growth_with_zeroed_outputs_leaves_every_bit_of_the_logits(depth):
    config = tiny(shared_expert_size=3, dense_layers=[1], dense_size=5, qkv_bias=True)
    model, text = built(config), tokens(config)
    assert torch.equal(logits(grown(model, depth=depth), text), logits(model, text))


@given(configs(), st.sampled_from(["interposition", "stack"]), FACTORS, st.integers(0, 2**32))
def test_depth_growth_with_zeroed_outputs_leaves_any_model(config, method, factor, seed):
    model = built(config, seed)
    text = tokens(config, seed=seed)
    after = grown(model, depth=Depth(factor=factor, method=method, zero_output=True))
    assert after.config.num_layers == factor * config.num_layers
    assert torch.equal(logits(after, text), logits(model, text))


def test_depth_growth_in_plain_copies_changes_the_function():
    model = built(tiny())
    text = tokens(model.config)
    assert (logits(grown(model, depth=Depth()), text) - logits(model, text)).abs().max() > 1e-3


def test_both_axes_at_once_leave_the_function():
    model = built(tiny(shared_expert_size=3))
    text = tokens(model.config)
    after = grown(model, Depth(zero_output=True), Width(noise=0.0))
    assert (after.config.num_layers, after.config.num_experts) == (6, 6)
    assert_equal_to_rounding(logits(after, text), logits(model, text))


@pytest.mark.parametrize("router", ["copy", "draw", "draw_all"])
@pytest.mark.parametrize("copies", ["copy", "draw"])
def test_experts_and_rows_of_the_router_are_drawn_each_as_told(copies, router):
    before = built(tiny())
    operator = DuplicateExperts(2, noise=0.0, copies=copies, router=router)
    after = grown_by(before, operator).state_dict()
    for name, weight in before.state_dict().items():
        if ".moe." in name:
            told = router if "router" in name else copies
            same = after[name] == weight.repeat_interleave(2, 0)
            assert same[::2].all() == (told != "draw_all") and same[1::2].all() == (told == "copy")
            assert same[::2].any() == (told != "draw_all") and same[1::2].any() == (told == "copy")
