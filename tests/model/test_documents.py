"""Documents packed into rows are as if each were alone."""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_equal_to_rounding, built, configs
from hypothesis import given
from hypothesis import strategies as st

from lit_recycle.model import documents as documents_module
from lit_recycle.model.attention import attend
from lit_recycle.model.config import MoEConfig
from lit_recycle.model.documents import DocumentMask, document_mask, positions_in_documents


@st.composite
def rows(draw):
    """Lengths of the documents of each row; all rows are of the same length."""
    length = draw(st.integers(1, 9))
    cuts = st.sets(st.integers(1, length), max_size=4).map(lambda found: sorted({*found, length}))
    return [torch.diff(torch.tensor([0, *draw(cuts)])).tolist() for _ in range(draw(st.integers(1, 3)))]


def numbers(lengths: list[list[int]]) -> torch.Tensor:
    return torch.stack([torch.arange(len(row)).repeat_interleave(torch.tensor(row)) for row in lengths])


@given(config=configs(), lengths=rows(), seed=st.integers(0, 99))
def test_a_document_has_the_logits_and_the_gradient_that_it_has_alone(config, lengths, seed):
    model = built(config, seed)
    documents_BS = numbers(lengths)
    tokens_BS = torch.randint(config.vocab_size, documents_BS.shape, generator=torch.Generator().manual_seed(seed))
    labels_BS = tokens_BS.roll(-1, 1)
    parameters = list(model.parameters())
    packed, _ = model(tokens_BS, documents_BS=documents_BS)
    packed_loss = F.cross_entropy(packed.flatten(0, 1), labels_BS.flatten(), reduction="sum")
    alone_loss = torch.zeros((), dtype=torch.float64)
    for row, cuts in enumerate(lengths):
        parts = zip(*(t[row].split(cuts) for t in (tokens_BS, labels_BS, packed)), strict=True)
        for tokens, labels, logits in parts:
            alone, _ = model(tokens.unsqueeze(0))
            assert_equal_to_rounding(logits, alone[0])
            alone_loss = alone_loss + F.cross_entropy(alone[0], labels, reduction="sum")
    for a, b in zip(
        torch.autograd.grad(packed_loss, parameters, allow_unused=True),
        torch.autograd.grad(alone_loss, parameters, allow_unused=True),
        strict=True,
    ):
        assert (a is None) == (b is None)
        if a is not None:
            assert_equal_to_rounding(a, b, scale=max(b.abs().max(), torch.tensor(1e-3)))


def test_recomputed_blocks_see_the_documents_too():
    from helpers import tiny

    from lit_recycle.model.transformer import MoETransformer

    config = tiny()
    plain, checkpointed = built(config), MoETransformer(config, activation_checkpointing=True).double()
    checkpointed.load_state_dict(plain.state_dict())
    tokens_BS = torch.randint(13, (2, 6), generator=torch.Generator().manual_seed(0))
    documents_BS = torch.tensor([[0, 0, 1, 1, 1, 2], [0, 0, 0, 0, 0, 0]])
    gradients = []
    for model in (plain, checkpointed):
        loss, _ = model(tokens_BS, labels_BS=tokens_BS.roll(-1, 1), documents_BS=documents_BS)
        gradients.append(torch.autograd.grad(loss, list(model.parameters())))
    for a, b in zip(*gradients, strict=True):
        assert torch.equal(a, b)


def test_positions_start_again():
    documents_BS = torch.tensor([[0, 0, 1, 1, 1, 4], [3, 3, 3, 3, 3, 3]])
    assert positions_in_documents(documents_BS).tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]


def by_hand(q, k, v, begins, ends, longest, lasts, **options):
    """What torch's kernel for sequences of various lengths computes."""
    assert begins is ends and longest == lasts == int(begins.diff().max())
    assert options.pop("window_size") == (-1, 0)
    parts = []
    for first, last in zip(begins[:-1].tolist(), begins[1:].tolist(), strict=True):
        one = (t[first:last].transpose(0, 1).unsqueeze(0) for t in (q, k, v))
        out = F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=options.get("enable_gqa", False))
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


@given(lengths=rows(), seed=st.integers(0, 99), groups=st.sampled_from([1, 2, 4]))
def test_borders_say_what_the_dense_mask_says(lengths, seed, groups):
    """The way of a GPU, with the kernel replaced by attention of one document at a time."""
    documents_BS = numbers(lengths)
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (
        torch.randn(len(lengths), heads, documents_BS.shape[1], 8, generator=generator, dtype=torch.float64)
        for heads in (4, groups, groups)
    )
    expected = attend(q, k, v, True, document_mask(documents_BS, torch.float32))
    borders = documents_module._borders(documents_BS)
    assert borders.dense_B1SS is None and borders.borders_N.dtype == torch.int32
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents_module, "varlen_attn", by_hand)
        assert_equal_to_rounding(attend(q, k, v, True, borders), expected, scale=1.0)


@pytest.mark.gpu
@pytest.mark.parametrize("groups", [1, 4])
def test_attention_by_borders_on_a_gpu_is_that_of_the_dense_mask(groups):
    documents_BS = torch.tensor([[0] * 100 + [1] * 27 + [2], [0] * 128], device="cuda")
    q, k, v = (torch.randn(2, heads, 128, 64, device="cuda", dtype=torch.bfloat16) for heads in (4, groups, groups))
    inputs = [t.requires_grad_() for t in (q, k, v)]
    mask = document_mask(documents_BS, torch.bfloat16)
    assert mask.borders_N is not None
    found = attend(*inputs, True, mask)
    expected = attend(*inputs, True, document_mask(documents_BS, torch.float32))
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)
    for a, b in zip(torch.autograd.grad(found.sum(), inputs), torch.autograd.grad(expected.sum(), inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=0.05, atol=0.05)


def test_a_cache_is_of_one_document():
    model = built(
        MoEConfig(vocab_size=9, hidden_size=4, num_layers=1, num_heads=1, num_experts=2, top_k=1, expert_size=2)
    )
    with pytest.raises(AssertionError, match="one document"):
        model(torch.zeros(1, 2, dtype=torch.long), cache=[], documents_BS=torch.zeros(1, 2, dtype=torch.long))
    assert DocumentMask().dense_B1SS is None
