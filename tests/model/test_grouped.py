"""Products of rows with their experts' matrices, in both of their ways, against a loop over rows."""

import itertools

import pytest
import torch
from helpers import DEVICES
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from lit_recycle.model.kernels.grouped import (
    MULTIPLE,
    SIZES,
    SLACK,
    WASTE,
    Groups,
    group_by_expert,
    pad,
    product,
    weight_gradient,
)


def choices(tokens: int, top_k: int, experts: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    chosen_TK = torch.stack([torch.randperm(experts, generator=generator)[:top_k] for _ in range(tokens)])
    return chosen_TK, torch.bincount(chosen_TK.flatten(), minlength=experts).float()


def expert_of_row(groups: Groups, chosen_TK: Tensor) -> Tensor:
    """The expert of each row, -1 for padding."""
    found = torch.full((len(groups.tokens_R),), -1)
    found[groups.places_TK.flatten()] = chosen_TK.flatten()
    return found


@given(st.integers(1, 40), st.integers(1, 3), st.integers(3, 9), st.integers(0, 2**20), st.booleans())
def test_each_choice_has_a_row_among_its_experts_rows(tokens, top_k, experts, seed, half):
    chosen_TK, counts_E = choices(tokens, top_k, experts, seed)
    groups = group_by_expert(chosen_TK, counts_E, torch.bfloat16 if half else torch.float64)
    assert groups.places_TK.flatten().unique().numel() == tokens * top_k
    assert torch.equal(groups.tokens_R[groups.places_TK], torch.arange(tokens).unsqueeze(1).expand(tokens, top_k))
    owner = expert_of_row(groups, chosen_TK)
    for span in groups.spans:
        for i, expert in enumerate(range(experts)[span.experts]):
            rows = owner[span.start + i * span.rows :][: span.rows]
            assert (rows == expert).sum() == counts_E[expert] and ((rows == expert) | (rows == -1)).all()
    assert groups.spans[-1].end == len(groups.tokens_R)


DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@given(st.lists(st.integers(0, 300) | st.integers(0, 2**20), min_size=1, max_size=20), st.sampled_from(DTYPES))
def test_spans_hold_each_expert_once_and_waste_little(counts, dtype):
    spans = pad(counts, dtype)
    assert sorted(e for span in spans for e in range(len(counts))[span.experts]) == list(range(len(counts)))
    assert spans[0].start == 0 and all(a.end == b.start for a, b in itertools.pairwise(spans))
    for span in spans:
        needed = counts[span.experts]
        assert len(needed) == span.batch <= (1 if dtype == torch.float16 else 2)
        padding, most = span.rows - max(needed), max(needed)
        assert 0 <= padding < max(MULTIPLE, most / SIZES) if dtype == torch.bfloat16 else padding == 0
        assert span.batch == 1 or span.rows * 2 <= (WASTE * (1 + 1 / SIZES)) * sum(needed) + (SLACK + MULTIPLE) * 2


def test_the_numbers_of_rows_in_bfloat16_are_few():
    """Each is a kernel to compile: multiples of 16 up to 256, then sixteen from each power of two to the next."""
    sizes = {pad([count], torch.bfloat16)[0].rows for count in range(1, 2**14 + 1)}
    assert len(sizes) == 16 + 16 * 6 and max(sizes) == 2**14


def test_experts_with_about_as_many_rows_share_a_product():
    def shared(counts: list[int]) -> list[list[int]]:
        return [list(range(len(counts))[span.experts]) for span in pad(counts, torch.float32)]

    assert shared([30, 300, 28, 310, 90]) == [[1, 3], [4], [0, 2]]
    assert shared([300, 10, 200, 12]) == [[0], [2], [1, 3]]
    assert shared([5, 20]) == [[0, 1]]


@given(st.integers(1, 20), st.integers(3, 6), st.integers(0, 2**20))
def test_products_are_those_of_each_row(tokens, experts, seed):
    chosen_TK, counts_E = choices(tokens, 2, experts, seed)
    groups = group_by_expert(chosen_TK, counts_E, torch.float64)
    generator = torch.Generator().manual_seed(seed)
    rows = len(groups.tokens_R)
    x_RI, grad_RO, weight_EOI = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((rows, 4), (rows, 6), (experts, 6, 4))
    )
    owner = expert_of_row(groups, chosen_TK)
    grad_RO[owner < 0] = 0.0  # as a weight of zero makes it
    used = owner >= 0
    torch.testing.assert_close(
        product(x_RI, weight_EOI, groups)[used], torch.einsum("ri,roi->ro", x_RI[used], weight_EOI[owner[used]])
    )
    torch.testing.assert_close(
        product(grad_RO, weight_EOI.mT, groups)[used],
        torch.einsum("ro,roi->ri", grad_RO[used], weight_EOI[owner[used]]),
    )
    expected = torch.zeros_like(weight_EOI).index_add_(
        0, owner[used], torch.einsum("ro,ri->roi", grad_RO[used], x_RI[used])
    )
    torch.testing.assert_close(weight_gradient(grad_RO, x_RI, groups, torch.float64), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_torchs_grouped_product_and_the_loop_agree(dtype, device):
    """The way of GPUs, on a CPU as well; with an expert that has no rows."""
    chosen_TK, _ = choices(21, 2, 5, 0)
    chosen_TK[chosen_TK == 3] = 4
    counts_E = torch.bincount(chosen_TK.flatten(), minlength=6)
    loop = group_by_expert(chosen_TK, counts_E, torch.float32)
    grouped = loop._replace(tokens_R=torch.empty(42), ends_E=counts_E.cumsum(0).int().to(device), spans=None)
    x_RI, grad_RO, weight_EOI = torch.randn(42, 16), torch.randn(42, 24), torch.randn(6, 24, 16)
    places = loop.places_TK.flatten()[chosen_TK.flatten().argsort(stable=True)]  # of rows in the order of experts
    padded_x, padded_grad = torch.zeros(len(loop.tokens_R), 16), torch.zeros(len(loop.tokens_R), 24)
    padded_x[places], padded_grad[places] = x_RI, grad_RO
    x, grad, weight = x_RI.to(device, dtype), grad_RO.to(device, dtype), weight_EOI.to(device)
    pairs = [
        (product(x, weight, grouped), product(padded_x, weight_EOI, loop)[places]),
        (product(grad, weight.mT, grouped), product(padded_grad, weight_EOI.mT, loop)[places]),
        (
            weight_gradient(grad, x, grouped, torch.float32),
            weight_gradient(padded_grad, padded_x, loop, torch.float32),
        ),
    ]
    for found, expected in pairs:
        error = 1e-5 if dtype == torch.float32 else 0.03
        torch.testing.assert_close(found.float().cpu(), expected, rtol=error, atol=error * float(expected.abs().max()))


@pytest.mark.parametrize(("dtype", "multiple"), [(torch.float32, 4), (torch.bfloat16, 8)])
def test_sizes_that_the_grouped_product_cannot_take_are_refused_by_key(dtype, multiple):
    groups = Groups(torch.arange(2), torch.tensor([[0], [1]]), torch.tensor([1, 2], dtype=torch.int32), None)
    product(torch.zeros(2, 2 * multiple, dtype=dtype), torch.zeros(2, multiple, 2 * multiple, dtype=dtype), groups)
    for shape in ((2, multiple, multiple + 1), (2, multiple + 1, multiple)):
        with pytest.raises(ValueError, match=f"hidden_size and expert_size must be multiples of {multiple}"):
            product(torch.zeros(2, shape[2], dtype=dtype), torch.zeros(*shape, dtype=dtype), groups)


def test_float16_is_not_padded():
    chosen_TK, counts_E = choices(20, 2, 5, 0)
    groups = group_by_expert(chosen_TK, counts_E, torch.float16)
    assert len(groups.tokens_R) == 40 and len(groups.spans) == 5
