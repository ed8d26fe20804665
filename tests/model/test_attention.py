"""Attention in bfloat16 on a CPU is attention in float32."""

import pytest
import torch
import torch.nn.functional as F

from lit_recycle.model.attention import attend


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_attention_on_a_cpu_is_computed_in_float32_at_least(dtype, autocast):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, heads, 7, 8, generator=generator).to(dtype) for heads in (4, 2, 2))
    wide = torch.promote_types(dtype, torch.float32)
    expected = F.scaled_dot_product_attention(*(t.to(wide) for t in (q, k, v)), is_causal=True, enable_gqa=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast and dtype == torch.bfloat16):
        found = attend(q, k, v, is_causal=True)
    assert found.dtype == dtype and torch.equal(found, expected.to(dtype))


def test_a_cache_of_another_type_goes_on_under_autocast():
    q, k, v = (torch.randn(1, 2, length, 8) for length in (1, 5, 5))
    with torch.autocast("cpu", torch.float16):
        assert attend(q.half(), k, v, is_causal=False).dtype == torch.float16
