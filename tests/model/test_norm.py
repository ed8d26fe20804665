"""RMSNorm: its own gradient on a CPU against torch's."""

import pytest
import torch
from torch import nn

from lit_recycle.model.norm import RMSNorm


def norms(size: int, eps: float, dtype: torch.dtype) -> tuple[RMSNorm, nn.RMSNorm]:
    ours, theirs = RMSNorm(size, eps=eps, dtype=dtype), nn.RMSNorm(size, eps=eps, dtype=dtype)
    with torch.no_grad():
        theirs.weight.normal_(generator=torch.Generator().manual_seed(1))
        ours.weight.copy_(theirs.weight)
    return ours, theirs


@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 5, 7), (0, 7)])
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_values_and_gradients_are_torchs(shape, eps):
    ours, theirs = norms(7, eps, torch.float64)
    x, grad = torch.randn(2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for norm in (ours, theirs):
        leaf = x.clone().requires_grad_()
        y = norm(leaf)
        results.append((y, *torch.autograd.grad(y, (leaf, norm.weight), grad)))
    torch.testing.assert_close(*results, rtol=1e-10, atol=1e-12)


def test_the_gradient_is_that_of_the_function_whatever_the_layout():
    norm, _ = norms(4, 0.1, torch.float64)
    x = torch.randn(2, 5, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    function = lambda x, weight: torch.func.functional_call(norm, {"weight": weight}, x)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x.requires_grad_(), norm.weight))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_type_of_the_input_comes_out_computed_in_that_of_the_weight(dtype):
    norm, theirs = norms(64, 1e-6, torch.float32)
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    y = norm(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype and norm.weight.grad.dtype == torch.float32
    assert torch.equal(y, theirs(x.float()).to(dtype))


def test_the_gradient_is_written_by_hand_and_keeps_the_input_as_it_is():
    norm, _ = norms(64, 1e-6, torch.float32)
    x, kept = torch.randn(3, 64).bfloat16().requires_grad_(), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = norm(x)
    assert "_RMSNorm" in type(y.grad_fn).__name__
    assert sum(t.numel() * t.itemsize for t in kept) == 3 * 64 * 2 + 64 * 4 + 3 * 4


def test_the_gradient_of_the_weight_does_not_lose_digits_in_many_rows():
    norm, _ = norms(8, 1e-6, torch.float32)
    x, grad = torch.randn(2, 2**16, 8, generator=torch.Generator().manual_seed(0)).abs()
    (found,) = torch.autograd.grad(norm(x), norm.weight, grad)
    (expected,) = torch.autograd.grad(norm.double()(x.double()), norm.weight, grad.double())
    torch.testing.assert_close(found.double(), expected, rtol=5e-7, atol=0.0)


def test_weights_of_16_bits_are_computed_in_float32():
    """The square of 300 is infinite in float16."""
    norm, _ = norms(8, 1e-6, torch.float16)
    x = torch.full((2, 8), 300.0, dtype=torch.float16)
    torch.testing.assert_close(norm(x), norm.weight.expand(2, 8), rtol=2e-3, atol=0)


def test_a_frozen_weight_has_no_gradient():
    norm, _ = norms(8, 1e-6, torch.float32)
    norm.weight.requires_grad_(False)
    x = torch.randn(2, 8, requires_grad=True)
    norm(x).sum().backward()
    assert x.grad is not None and norm.weight.grad is None
