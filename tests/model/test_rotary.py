"""Rotary positions against complex numbers, and their gradient."""

import pytest
import torch
from helpers import tiny

from lit_recycle.model.rotary import rotate, rotation_of

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_pairs_are_turned_like_complex_numbers(dtype):
    config = tiny(head_dim=6)
    x = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0)).to(dtype)
    angles = torch.arange(4, 9).unsqueeze(1) * 10_000 ** (-torch.arange(3) / 3)
    turned = torch.complex(*x.float().chunk(2, dim=-1)) * torch.exp(1j * angles)
    found = rotate(x, rotation_of(config, 4, 5, CPU))
    assert found.dtype == dtype
    torch.testing.assert_close(found, torch.cat((turned.real, turned.imag), dim=-1).to(dtype), rtol=1e-2, atol=1e-5)


def test_the_product_of_a_query_and_a_key_depends_on_their_distance_alone():
    config = tiny(head_dim=6)
    q, k = torch.randn(2, 1, 1, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def product(i: int, j: int) -> float:
        return (rotate(q, rotation_of(config, i, 1, CPU)) * rotate(k, rotation_of(config, j, 1, CPU))).sum().item()

    assert product(5, 3) == pytest.approx(product(12, 10), rel=1e-5)
    assert product(5, 3) != pytest.approx(product(5, 4), rel=1e-2)


def test_the_gradient_is_that_of_the_function_whatever_the_layout():
    rotation = rotation_of(tiny(head_dim=4), 1, 3, CPU)
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).transpose(1, 2)
    assert torch.autograd.gradcheck(lambda x: rotate(x, rotation), x.requires_grad_())
