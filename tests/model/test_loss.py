"""The loss in chunks, against logits held whole."""

import pytest
import torch
import torch.nn.functional as F
from helpers import built, tiny
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.model import loss
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
