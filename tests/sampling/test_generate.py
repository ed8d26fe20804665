"""Sampling takes the model's probabilities, and a row does not depend on those beside it."""

import itertools

import numpy as np
import pytest
import torch

from lit_recycle.model.config import MoEConfig
from lit_recycle.model.transformer import MoETransformer
from lit_recycle.sampling.generate import _sample, generate, generate_batch

CONFIG = MoEConfig(vocab_size=61, hidden_size=16, num_layers=2, num_heads=2, num_experts=3, top_k=2, expert_size=8)
PROMPTS = [[5, 6, 7, 8, 9], [3], [11, 12, 13]]


@pytest.fixture(scope="module")
def model():
    built = MoETransformer(CONFIG).double().eval()
    built.init_weights(0)
    with torch.no_grad():
        built.lm_head.weight.mul_(40)
    return built


def alone(model, prompt, seed, count, **options):
    return [*itertools.islice(generate(model, prompt, seed=seed, **options), count)]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_rows_of_a_batch_are_what_they_are_alone(model, temperature):
    options = {"temperature": temperature, "top_p": 0.9, "allowed": 60}
    found = generate_batch(model, PROMPTS, [1, 2, 3], 12, lambda ids: False, **options)
    assert found == [alone(model, p, s, 12, **options) for p, s in zip(PROMPTS, (1, 2, 3), strict=True)]
    assert len({str(row) for row in found}) == 3


def test_each_row_ends_where_it_ends(model):
    whole = generate_batch(model, PROMPTS, [1, 2, 3], 30, lambda ids: False)
    end = whole[0][4]
    found = generate_batch(model, PROMPTS, [1, 2, 3], 30, lambda ids: ids[-1] == end)
    assert found[0] == whole[0][: whole[0].index(end) + 1]
    assert all(
        row == full[: len(row)] and (row[-1] == end or len(row) == 30) for row, full in zip(found, whole, strict=True)
    )


def test_tokens_are_drawn_with_their_probabilities():
    """Chi-squared over eight tokens and 20,000 draws; 24.3 is the 0.1 % point of 7 degrees of freedom."""
    logits, draws = torch.tensor([[0.3, 2.0, -1.0, 0.5, 1.5, 0.0, -0.5, 1.0]]), 20_000
    uniform = torch.tensor(np.random.default_rng(0).random(draws), dtype=torch.float32)
    found = torch.bincount(_sample(logits.expand(draws, -1), 0.7, 1.0, uniform), minlength=8)
    expected = (logits[0] / 0.7).softmax(-1) * draws
    assert ((found - expected) ** 2 / expected).sum() < 24.3


def test_top_p_cuts_off_the_tail():
    probabilities = torch.tensor([[0.05, 0.5, 0.3, 0.15]])
    uniform = torch.linspace(0, 1, 101)
    found = _sample(probabilities.log().expand(101, -1), 1.0, 0.7, uniform)
    assert found.unique().tolist() == [1, 2]
    assert abs((found == 1).float().mean() - 0.5 / 0.8) < 0.02


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match="the prompt is empty"):
        generate_batch(model, [[1], []], [0, 0], 3, lambda ids: False)
