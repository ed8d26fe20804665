"""The loss in chunks, against logits held whole."""

import pytest
import torch
import torch.nn.functional as F
from helpers import built, tiny
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.model.kernels import loss
from lit_recycle.model.loss import next_token_loss


@pytest.fixture(autouse=True, params=[1, 40, 1 << 27], ids="chunk-{}".format)
def chunk(request, monkeypatch):
    """A token at a time, some, and all."""
    monkeypatch.setattr(loss, "CHUNK", request.param)


def a_batch(tokens=9, hidden=5, vocabulary=11, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden_TD = torch.randn(tokens, hidden, generator=generator, dtype=dtype).requires_grad_()
    weight_VD = torch.randn(vocabulary, hidden, generator=generator, dtype=dtype).requires_grad_()
    return hidden_TD, weight_VD, torch.randint(vocabulary, (tokens,), generator=generator)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_loss_and_gradients_are_those_of_whole_logits(factor):
    hidden_TD, weight_VD, labels_T = a_batch()
    found = next_token_loss(hidden_TD, weight_VD, labels_T)
    expected = F.cross_entropy(hidden_TD @ weight_VD.T, labels_T)
    torch.testing.assert_close(found, expected)
    wanted = [hidden_TD, weight_VD]
    for a, b in zip(
        torch.autograd.grad(factor * found, wanted), torch.autograd.grad(factor * expected, wanted), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("left_out", [[0], [3, 4, 8], [0, 1, 2, 3, 4, 5, 6, 7]])
def test_labels_that_are_left_out(left_out):
    hidden_TD, weight_VD, labels_T = a_batch()
    labels_T[left_out] = -100
    found = next_token_loss(hidden_TD, weight_VD, labels_T)
    expected = F.cross_entropy(hidden_TD @ weight_VD.T, labels_T)
    torch.testing.assert_close(found, expected)
    wanted = [hidden_TD, weight_VD]
    for a, b in zip(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(a, b)


def test_a_batch_without_a_label_has_no_loss_and_no_gradient():
    hidden_TD, weight_VD, labels_T = a_batch()
    found = next_token_loss(hidden_TD, weight_VD, torch.full_like(labels_T, -100))
    assert found == 0
    for gradient in torch.autograd.grad(found, [hidden_TD, weight_VD]):
        assert not gradient.any()


def test_gradients_by_finite_differences():
    assert torch.autograd.gradcheck(lambda h, w: next_token_loss(h, w, a_batch()[2]), a_batch()[:2])


def test_without_gradients_none_are_computed(monkeypatch):
    hidden_TD, weight_VD, labels_T = a_batch()
    expected = next_token_loss(hidden_TD, weight_VD, labels_T)
    monkeypatch.setattr(torch, "mm", None)  # what the gradients are computed with
    with torch.no_grad():
        found = next_token_loss(hidden_TD, weight_VD, labels_T)
    assert torch.equal(found, expected)


def test_large_logits_do_not_overflow():
    hidden_TD, weight_VD, labels_T = a_batch()
    assert next_token_loss(hidden_TD * 1e4, weight_VD, labels_T).isfinite()


def test_autocast_computes_products_in_its_type_and_gives_gradients_in_the_parameters():
    hidden_TD, weight_VD, labels_T = a_batch(tokens=64, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        found = next_token_loss(hidden_TD, weight_VD, labels_T)
    assert found.dtype == torch.float32
    expected = F.cross_entropy(hidden_TD @ weight_VD.T, labels_T)
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0.01)
    wanted = [hidden_TD, weight_VD]
    for a, b in zip(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.02 * float(b.abs().max()))


@pytest.mark.parametrize("scale", [2.0**10, 2.0**16])
def test_float16_keeps_gradients_under_the_factors_of_a_loss_scaler(scale):
    """Neither lost, being shares of a mean, nor infinite for a factor that float16 does not hold."""
    hidden_TD, weight_VD, labels_T = a_batch(tokens=1024, hidden=8, vocabulary=2048, dtype=torch.float32)
    weight_VD.data *= 0.02  # so that all tokens have small shares
    with torch.autocast("cpu", torch.float16):
        found = next_token_loss(hidden_TD, weight_VD, labels_T)
    expected = F.cross_entropy(hidden_TD @ weight_VD.T, labels_T)
    wanted = [hidden_TD, weight_VD]
    for a, b in zip(torch.autograd.grad(scale * found, wanted), torch.autograd.grad(expected, wanted), strict=True):
        assert (a / scale - b).norm() < 2e-3 * b.norm()


def test_sums_over_many_rows_do_not_overflow_in_float16(monkeypatch):
    monkeypatch.setattr(loss, "CHUNK", 1 << 27)
    hidden_TD, weight_VD = torch.full((40_000, 1), 8.0), torch.zeros(3, 1, requires_grad=True)
    with torch.autocast("cpu", torch.float16):
        found = next_token_loss(hidden_TD, weight_VD, torch.zeros(len(hidden_TD), dtype=torch.long))
    (gradient,) = torch.autograd.grad(found, [weight_VD])
    torch.testing.assert_close(gradient, torch.tensor([[-16.0], [8.0], [8.0]]) / 3, rtol=2e-3, atol=0.0)


def test_a_factor_is_not_rounded_to_the_type_of_the_products():
    hidden_TD, weight_VD, labels_T = (x.bfloat16() if x.is_floating_point() else x for x in a_batch(tokens=64))
    hidden_TD = hidden_TD.detach().requires_grad_()
    whole, third = (
        torch.autograd.grad(factor * next_token_loss(hidden_TD, weight_VD, labels_T), hidden_TD)[0].float()
        for factor in (1.0, 1 / 3)
    )
    ratio = (whole * third).sum() / whole.square().sum()
    assert ratio.item() == pytest.approx(1 / 3, rel=3e-4)


@pytest.mark.parametrize("frozen", [0, 1])
def test_what_is_frozen_gets_no_gradient(frozen):
    inputs = a_batch()
    inputs[frozen].requires_grad_(False)
    next_token_loss(*inputs).backward()
    expected = torch.autograd.grad(F.cross_entropy(inputs[0] @ inputs[1].T, inputs[2]), inputs[1 - frozen])
    assert inputs[frozen].grad is None
    torch.testing.assert_close(inputs[1 - frozen].grad, expected[0])


@given(st.booleans(), st.integers(0, 2**20))
def test_the_model_gives_the_loss_of_its_logits(tied, seed):
    model = built(tiny(tie_embeddings=tied), seed)
    text = torch.randint(model.config.vocab_size, (2, 8), generator=torch.Generator().manual_seed(seed))
    found, _ = model(text[:, :-1], labels_BS=text[:, 1:])
    logits, _ = model(text[:, :-1])
    expected = F.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())
    torch.testing.assert_close(found, expected)
    wanted = [model.embed.weight, model.lm_head.weight][: 1 if tied else 2]
    for a, b in zip(torch.autograd.grad(found, wanted), torch.autograd.grad(expected, wanted), strict=True):
        torch.testing.assert_close(a, b)
