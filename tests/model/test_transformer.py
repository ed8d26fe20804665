"""The whole model: causal, decodable step by step, and the same however it is computed."""

import pytest
import torch
from helpers import assert_equal_to_rounding, built, configs, gradients, loss, tiny, tokens
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.model.kernels import grouped
from lit_recycle.model.transformer import MoETransformer, initial_value

EVERYTHING = dict(
    num_layers=4,
    num_heads=4,
    num_kv_heads=2,
    shared_expert_size=4,
    shared_expert_gate=True,
    dense_layers=[1],
    dense_size=8,
    balance_bias=True,
    qk_norm="head",
    qkv_bias=True,
)


@given(configs(), st.integers(0, 2**32))
@torch.no_grad()
def test_decoding_with_a_cache_is_the_full_forward_pass(config, seed):
    model, text = built(config, seed), tokens(config, length=6, seed=seed)
    expected, _ = model(text)
    for prompt in (1, 4):
        cache = []
        found = [model(text[:, :prompt], cache)[0]]
        for position in range(prompt, text.shape[1]):
            logits, _ = model(text[:, position : position + 1], cache)
            found.append(logits)
        assert_equal_to_rounding(torch.cat(found, dim=1), expected[:, prompt - 1 :])
        assert len(cache) == config.num_layers
        assert all(k.shape == v.shape == (2, config.num_kv_heads, 6, config.head_dim) for k, v in cache)


@given(configs(), st.integers(0, 2**32))
@torch.no_grad()
def test_a_later_token_does_not_change_earlier_logits(config, seed):
    model, text = built(config, seed), tokens(config, length=6, seed=seed)
    before, _ = model(text)
    for position in range(1, 6):
        changed = text.clone()
        changed[:, position] = (changed[:, position] + 1) % config.vocab_size
        after, _ = model(changed)
        assert_equal_to_rounding(after[:, :position], before[:, :position], before.abs().max())
        assert (after[:, position] - before[:, position]).abs().max() > 1e-6


@torch.no_grad()
def test_samples_of_a_batch_do_not_see_each_other():
    model, text = built(tiny(**EVERYTHING)), tokens(tiny(), batch=4)
    together, _ = model(text)
    for sample, logits in zip(text, together, strict=True):
        assert_equal_to_rounding(model(sample[None])[0][0], logits)


@torch.no_grad()
def test_the_order_of_tokens_counts():
    """Rotary positions: without them, a token that is attended to could stand anywhere."""
    model, text = built(tiny()), tokens(tiny(), batch=1, length=6)
    swapped = text[:, [1, 0, 2, 3, 4, 5]]
    assert (model(swapped)[0][:, -1] - model(text)[0][:, -1]).abs().max() > 1e-6


@pytest.mark.parametrize("qk_norm", ["none", "head", "full"])
def test_qk_norms_bound_the_attention_scores(qk_norm):
    """With a norm the size of the query and key projections does not matter."""
    model, text = built(tiny(qk_norm=qk_norm, norm_eps=1e-12)), tokens(tiny())
    before, _ = model(text)
    with torch.no_grad():
        for block in model.layers:
            block.attn.q_proj.weight.mul_(3.0)
            block.attn.k_proj.weight.mul_(5.0)
    changed = (model(text)[0] - before).abs().max() > 1e-6
    assert changed == (qk_norm == "none")


def test_routing_is_stacked_over_the_moe_layers_in_order():
    model = built(tiny(**EVERYTHING))
    text = tokens(model.config)
    _, routing = model(text)
    assert routing.counts_E.shape == routing.scores_E.shape == (3, 3) and routing.z.shape == (3,)
    assert [id(r) for r in model.routers()] == [id(model.layers[i].moe.router) for i in (0, 2, 3)]
    with torch.no_grad():
        model.routers()[1].balance_bias.copy_(torch.tensor([-9.0, 0.0, 0.0]))
    counts_LE = model(text)[1].counts_E
    assert counts_LE[1, 0] == 0 and torch.equal(counts_LE[0], routing.counts_E[0])


def test_a_dense_model_has_no_routing():
    model = built(tiny(dense_layers=[0, 1, 2], dense_size=8))
    logits, routing = model(tokens(model.config))
    assert routing is None and logits.shape == (2, 7, 13)
    assert model.routers() == []


def test_tied_embeddings_are_one_parameter():
    model = built(tiny(tie_embeddings=True))
    assert model.lm_head.weight is model.embed.weight
    assert "lm_head.weight" not in dict(model.named_parameters())
    model.load_state_dict({n: t.clone() for n, t in model.state_dict().items()}, assign=True)
    assert model.lm_head.weight is not model.embed.weight
    model.tie_weights()
    assert model.lm_head.weight is model.embed.weight


# --- the same, computed in other ways ---


def test_activation_checkpointing_gives_the_same_gradients():
    config = tiny(**EVERYTHING)
    plain, frugal = built(config), MoETransformer(config, activation_checkpointing=True).double()
    frugal.load_state_dict(plain.state_dict())
    text = tokens(config)
    expected, found = gradients(plain, text), gradients(frugal, text)
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name


def test_activation_checkpointing_keeps_less():
    def kept(model):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
            loss(model, tokens(model.config, batch=8, length=33))
        return sum(sizes)

    config = tiny(num_layers=6)
    assert kept(MoETransformer(config, activation_checkpointing=True)) < 0.2 * kept(MoETransformer(config))


def test_single_precision_is_close_to_double():
    """Grouped products, in float32, against experts one by one."""
    config = tiny(**EVERYTHING)
    exact, single, text = built(config), built(config).float(), tokens(config)
    torch.testing.assert_close(single(text)[0].double(), exact(text)[0], rtol=1e-5, atol=1e-5)
    expected = gradients(exact, text)
    for name, gradient in gradients(single, text).items():
        scale = float(expected[name].abs().max())
        torch.testing.assert_close(gradient.double(), expected[name], rtol=1e-4, atol=1e-5 * max(scale, 0.1))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step_in_bfloat16_autocast(checkpointing):
    config = tiny(hidden_size=16, expert_size=8, shared_expert_size=8, balance_bias=True, qk_norm="full")
    model = MoETransformer(config, activation_checkpointing=checkpointing)
    model.init_weights(0)
    text = tokens(config, batch=8)
    exact = loss(model, text)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(model, text)
    found.backward()
    assert found.item() == pytest.approx(exact.item(), rel=0.01)
    for name, param in model.named_parameters():
        assert param.grad.dtype == torch.float32 and param.grad.isfinite().all() and param.grad.any(), name


def test_a_model_in_bfloat16_throughout():
    model = built(tiny(hidden_size=16, expert_size=8, qk_norm="head", balance_bias=True), dtype=torch.bfloat16)
    logits, routing = model(tokens(model.config))
    assert logits.dtype == torch.bfloat16 and routing.scores_E.dtype == torch.float32
    logits.float().square().mean().backward()
    assert all(param.grad.isfinite().all() for param in model.parameters())


# --- initial weights ---


def test_initial_weights_do_not_depend_on_the_order_of_modules_or_on_their_number():
    config = tiny(shared_expert_size=4, qkv_bias=True, balance_bias=True)
    model, other = MoETransformer(config), MoETransformer(config.replace(num_layers=5))
    for block in other.layers:
        block._modules = dict(reversed(block._modules.items()))
    other.layers._modules = dict(reversed(other.layers._modules.items()))
    other._modules = dict(reversed(other._modules.items()))
    torch.manual_seed(0)
    model.init_weights(seed=3)
    torch.manual_seed(1)
    other.init_weights(seed=3)
    found = other.state_dict()
    assert list(found) != list(model.state_dict())
    for name, tensor in model.state_dict().items():
        scaled = name.endswith(("o_proj.weight", "down.weight", "experts.down"))  # by 1/√(2L)
        torch.testing.assert_close(found[name] * (5 / 3) ** 0.5 if scaled else found[name], tensor)


def test_initial_weights_differ_by_seed_layer_and_tensor():
    config = tiny(hidden_size=4, num_heads=2, num_experts=4, expert_size=4)
    found = []
    for seed in (0, 1, 10):
        model = MoETransformer(config)
        model.init_weights(seed)
        found += [t.flatten()[:16] for t in model.state_dict().values() if t.dim() > 1]
    signs = torch.stack(found).sign()
    assert len(signs.unique(dim=0)) == len(signs)


def test_initial_weights_replace_whatever_there_was():
    config = tiny(**EVERYTHING)
    expected, model = MoETransformer(config), built(config).float()
    expected.init_weights(7)
    model.init_weights(7)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    for name, tensor in model.state_dict().items():
        if tensor.dim() == 1:
            assert (tensor == (0.0 if name.endswith("bias") else 1.0)).all(), name


def test_the_deviations_of_initial_weights():
    config = tiny(
        vocab_size=256, hidden_size=128, num_layers=2, expert_size=64, shared_expert_size=64,
        dense_layers=[1], dense_size=64, init_std=0.05,
    )  # fmt: skip
    model = MoETransformer(config)
    model.init_weights(0)
    for name, tensor in model.state_dict().items():
        if tensor.dim() > 1:
            outputs = ("attn.o_proj.weight", "moe.experts.down", "moe.shared.down.weight", "mlp.down.weight")
            expected = 0.05 / 2 if name.endswith(outputs) else 0.05  # √(2·2) = 2
            assert tensor.std().item() == pytest.approx(expected, rel=4 * (2 * tensor.numel()) ** -0.5), name


def test_initial_weights_in_bfloat16_are_those_of_float32_rounded():
    model, exact = MoETransformer(tiny()).bfloat16(), MoETransformer(tiny())
    model.init_weights(0)
    exact.init_weights(0)
    for name, tensor in exact.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.bfloat16())


@pytest.mark.parametrize("name", ["embed.weight", "norm.weight", "layers.0.attn.q_proj.bias"])
def test_initial_values_do_not_depend_on_the_default_type_or_device(name):
    """Models are built under contexts that set both, for half precision and for GPUs."""
    shape = torch.Size([5, 6] if name == "embed.weight" else [6])
    expected = initial_value(tiny(), name, shape, seed=0)
    assert (expected.dtype, expected.device.type) == (torch.float32, "cpu")
    try:
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("meta"):
            found = initial_value(tiny(), name, shape, seed=0)
    finally:
        torch.set_default_dtype(torch.float32)
    assert (found.dtype, found.device.type) == (torch.float32, "cpu")
    assert torch.equal(found, expected)


def test_a_training_step_compiles_whole_on_the_way_of_gpus(monkeypatch):
    """torch's grouped product needs no lengths on the host, so that nothing breaks the graph. (Norms and attention are
    those of a CPU.)"""
    monkeypatch.setattr(grouped, "has_grouped_product", lambda device, dtype: True)
    config = tiny(hidden_size=16, expert_size=8, qk_norm="full", shared_expert_size=8)
    model, text = built(config).bfloat16(), tokens(config)
    steps = []
    for run in (model, torch.compile(model, backend="aot_eager", fullgraph=True)):
        model.zero_grad()
        result, _ = run(text[:, :-1], labels_BS=text[:, 1:])
        result.backward()
        steps.append((result.detach(), *(p.grad.clone() for p in model.parameters())))
    torch.testing.assert_close(*steps, rtol=0.05, atol=0.002)
