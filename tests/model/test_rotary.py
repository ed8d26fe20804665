"""Rotary positions against complex numbers, and their gradient."""

import pytest
import torch
from helpers import tiny

from lit_recycle.model.rotary import rotate, rotation_of


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("start", "theta"), [(0, 10_000.0), (1_000, 500.0)])
def test_pairs_are_turned_like_complex_numbers(dtype, start, theta):
    config = tiny(head_dim=6, rope_theta=theta)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).to(dtype)
    angles = torch.arange(start, start + 5).unsqueeze(1) * theta ** (-torch.arange(3, dtype=torch.float64) / 3)
    turned = torch.complex(*x.double().chunk(2, dim=-1)) * torch.exp(1j * angles)
    found = rotate(x, rotation_of(config, torch.arange(start, start + 5)))
    assert found.dtype == dtype
    error = 1e-2 if dtype == torch.bfloat16 else 1e-4 if start else 2e-6  # of an angle in float32
    torch.testing.assert_close(found.double(), torch.cat((turned.real, turned.imag), dim=-1), rtol=error, atol=error)


def test_the_product_of_a_query_and_a_key_depends_on_their_distance_alone():
    config = tiny(head_dim=6)
    q, k = torch.randn(2, 1, 1, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def product(i: int, j: int) -> float:
        return (
            (rotate(q, rotation_of(config, torch.tensor([i]))) * rotate(k, rotation_of(config, torch.tensor([j]))))
            .sum()
            .item()
        )

    assert product(5, 3) == pytest.approx(product(12, 10), rel=1e-5)
    assert product(5, 3) != pytest.approx(product(5, 4), rel=1e-2)


def test_the_gradient_is_that_of_the_function_whatever_the_layout():
    rotation = rotation_of(tiny(head_dim=4), torch.arange(1, 4))
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    assert torch.autograd.gradcheck(lambda x: rotate(x, rotation), x.requires_grad_())
